"""What a study file may not say of its search axes and its puzzles: found when it is loaded, not half-way through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from puzzle_study import config
from puzzle_study.config.axes import EVALUATION_AXES, Values, combinations, cycle, setting_of
from puzzle_study.detectors.puzzle_ae.rules import RULES, Rule
from puzzle_study.errors import UserError, cut, nearest_setting

if TYPE_CHECKING:
    from puzzle_study.config.read import StudyFile

UNTRAINED = {
    "data.root": "says where the images are",
    "data.normal_classes": "says which tasks there are",
    "data.repeats": "says how many tasks there are",
}
FOLLOWING = "evaluate."
"""Settings of this section follow a training, and name it: each of their values would train every detector anew."""


def check_search(file: StudyFile) -> None:
    """Refuse axes that are no settings, whose values are not allowed, or whose conditions make no sense.

    Raises:
        UserError: one sentence with the axis, the reason, the file and the line.
    """
    search = file.study.search
    if search is None:
        return
    for name, axis in search.space.items():
        _check_names(file, name, axis)
        if search.algorithm == "grid" and axis.kind not in ("choice", "grid"):
            raise UserError(
                f"search axis `{name}` is {axis.kind}; `algorithm: grid` wants `grid` or `choice` ({file.where(name)})"
            )
        for value in axis.values:
            file.configuration({name: value})
        for dotted, values in (axis.when or {}).items():
            for value in values:
                file.configuration({dotted: value})
    if loop := cycle(search):
        raise UserError(
            f"search axis `{loop[0]}` waits for itself by `when` ({' → '.join([*loop, loop[0]])}); take one of these "
            f"conditions out ({file.where(loop[0])})"
        )
    for name, axis in search.space.items():
        if axis.when:
            _check_condition(file, name, axis)


def check_puzzles(file: StudyFile) -> None:
    """Refuse puzzles that cannot be made, of the study's own settings and of what its axes can be together.

    Raises:
        UserError: one sentence with the settings, the reason, and how `when` keeps axes apart that do not go together.
    """
    default = file.configuration({})
    for rule in RULES:
        if (reason := rule.broken(default)) is not None:
            raise UserError(f"{reason} ({file.where_set(rule.settings)})")
    if file.study.search is None:
        return
    for rule in RULES:
        for values in combinations(file, [*rule.settings, "variant"]) or ():
            if (reason := rule.broken(file.configuration(values))) is not None:
                raise UserError(_apart(file, file.study.search, rule, values, reason))


def _apart(file: StudyFile, search: config.Search, rule: Rule, values: Values, reason: str) -> str:
    """Return what is wrong with a combination and which axis has to be kept from which value."""

    def mends(name: str) -> bool:
        return any(rule.broken(file.configuration(values | {name: v})) is None for v in search.space[name].values)

    met_in = [(name, value) for name, value in values.items() if mends(name)] or list(values.items())
    (first, value), (last, final) = met_in[0], met_in[-1]
    where = file.where(last)
    met = " and ".join(f"`{name}` {value}" for name, value in met_in)
    axis = search.space[first]
    apart = (search.space[last].when or {}).get(first) or (axis.values if axis.kind in ("choice", "grid") else ())
    rest = [other for other in apart if other != value]
    if first == last or not rest:
        axes, together = ("axis", "") if first == last else ("axes", " together")
        return f"search {axes} {met} cannot be{together}: {reason}; leave {final} out of `{last}` ({where})"
    listed = ", ".join(map(str, rest))
    return (
        f"search axes {met} cannot be together: {reason}; search `{last}` only where it fits, by "
        f"`when: {{{first}: [{listed}]}}` ({where})"
    )


def searchable() -> list[str]:
    """Return the dotted names of all settings that an axis may vary."""
    return [name for name in conditions() if name not in UNTRAINED and not name.startswith(FOLLOWING)]


def conditions() -> list[str]:
    """Return the dotted names of all settings that a condition may name."""
    from puzzle_study.config.read import setting_names

    return [name for name in setting_names(config.Settings) if name != "data.name"]


def _check_names(file: StudyFile, name: str, axis: config.Axis) -> None:
    known = conditions()
    for dotted in (name, *(axis.when or {})):
        if dotted not in known:
            raise UserError(
                f"search axis `{cut(dotted)}` is not a setting of a configuration{nearest_setting(dotted, (), known)} "
                f"({file.where(name)})"
            )
    if name not in searchable():
        why = UNTRAINED.get(name, "follows a training and does not change it")
        raise UserError(
            f"search axis `{name}` trains no other detector: it {why}; take it out of `search.space` and set it once "
            f"({file.where(name)})"
        )
    if name in EVALUATION_AXES and axis.when:
        raise UserError(
            f"search axis `{name}` needs no training and every detector is read by each of its values; take its "
            f"`when` out ({file.where(name)})"
        )
    assert file.study.search is not None
    for dotted in axis.when or {}:
        if dotted in EVALUATION_AXES and dotted in file.study.search.space:
            raise UserError(
                f"search axis `{name}` waits for `{dotted}`, each of whose values every detector is read by; take that "
                f"condition out ({file.where(name)})"
            )


def _check_condition(file: StudyFile, name: str, axis: config.Axis) -> None:
    """Refuse a condition that holds nowhere in the space."""
    points = combinations(file, [name])
    if points is None or any(name in values for values in points):
        return
    wanted = " and ".join(f"{other} {_any_of(values)}" for other, values in (axis.when or {}).items())
    found = "; ".join(f"{other} is {_any_of(_values_of(file, other, points))}" for other in axis.when or {})
    raise UserError(
        f"search axis `{name}` is never searched: its `when` wants {wanted}, but in this study {found} "
        f"({file.where(name)})"
    )


def _values_of(file: StudyFile, name: str, points: list[Values]) -> list[config.Scalar]:
    return list(dict.fromkeys(values.get(name, setting_of(file.study, name)) for values in points))


def _any_of(values: Iterable[config.Scalar]) -> str:
    return " or ".join(map(str, values))
