"""What a study file may not say of its search axes and detectors: found when it is loaded, not half-way through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from puzzle_study import config
from puzzle_study.config import forms
from puzzle_study.config.axes import Values, combinations, cycle, value_at
from puzzle_study.config.forms import Form
from puzzle_study.config.types import Rule
from puzzle_study.errors import UserError, cut, nearest_setting, suggestion

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
            _check_value(file, name, name, value)
        for dotted, values in (axis.when or {}).items():
            for value in values:
                _check_value(file, name, dotted, value)
    if loop := cycle(search):
        raise UserError(
            f"search axis `{loop[0]}` waits for itself by `when` ({' → '.join([*loop, loop[0]])}); take one of these "
            f"conditions out ({file.where(loop[0])})"
        )
    for name, axis in search.space.items():
        if axis.when:
            _check_condition(file, name, axis)


def check_rules(file: StudyFile) -> None:
    """Refuse settings that do not go together, of the study's own and of what its axes can be together.

    Raises:
        UserError: one sentence with the settings, the reason, and how `when` keeps axes apart that do not go together.
    """
    for detector in file.form.names:
        default, prefix = file.configuration({forms.ONE: detector}), file.form.prefix(detector)
        for rule in file.form.settings_class(detector).RULES:
            names = [name if name.startswith("data.") else f"{prefix}{name}" for name in rule.settings]
            if (reason := _broken(rule, default)) is not None:
                raise UserError(f"{reason} ({file.where_set(names)})")
            if file.study.search is None:
                continue
            for values in combinations(file, [*names, f"{prefix}variant", forms.ONE]) or ():
                settings = file.configuration(values)
                if settings.detector == detector and (reason := _broken(rule, settings)) is not None:
                    raise UserError(_apart(file, file.study.search, rule, values, reason))


def _broken(rule: Rule, settings: config.Settings) -> str | None:
    """Return why a configuration cannot be, None if it can."""
    try:
        rule.check(settings.own, settings.data)
    except UserError as error:
        return str(error)
    return None


def _apart(file: StudyFile, search: config.Search, rule: Rule, values: Values, reason: str) -> str:
    """Return what is wrong with a combination and which axis has to be kept from which value."""

    def mends(name: str) -> bool:
        others = search.space[name].values
        return any(_broken(rule, file.configuration(values | {name: other})) is None for other in others)

    own = {name: value for name, value in values.items() if name != forms.ONE}
    met_in = [(name, value) for name, value in own.items() if mends(name)] or list(own.items())
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


def searchable(form: Form) -> list[str]:
    """Return the dotted names of all settings that an axis may vary."""
    return [name for name in conditions(form) if name not in UNTRAINED and not name.startswith(FOLLOWING)]


def conditions(form: Form) -> list[str]:
    """Return the dotted names of all settings that a condition may name."""
    names = [name for name in form.setting_names() if name != "data.name" and name.rpartition(".")[2] != "preset"]
    return [*names, forms.ONE] if form.several else names


def _check_names(file: StudyFile, name: str, axis: config.Axis) -> None:
    known, free = conditions(file.form), file.form.free()
    for dotted in (name, *(axis.when or {})):
        if dotted not in known:
            raise UserError(
                f"search axis `{cut(dotted)}` is not a setting of a configuration{nearest_setting(dotted, (), known)} "
                f"({file.where(name)})"
            )
    if name not in searchable(file.form):
        why = UNTRAINED.get(name, "follows a training and does not change it")
        raise UserError(
            f"search axis `{name}` trains no other detector: it {why}; take it out of `search.space` and set it once "
            f"({file.where(name)})"
        )
    owner = file.form.detector_of(name) if file.form.several else None
    if owner is not None and tuple((axis.when or {})[forms.ONE]) != (owner,):
        raise UserError(
            f"search axis `{name}` is searched under {owner} alone; take `{forms.ONE}` out of its `when` "
            f"({file.where(name)})"
        )
    if name in free and set(axis.when or {}) - {forms.ONE}:
        raise UserError(
            f"search axis `{name}` needs no training and every detector is read by each of its values; take its "
            f"`when` out ({file.where(name)})"
        )
    assert file.study.search is not None
    for dotted in axis.when or {}:
        if dotted in free and dotted in file.study.search.space:
            raise UserError(
                f"search axis `{name}` waits for `{dotted}`, each of whose values every detector is read by; take that "
                f"condition out ({file.where(name)})"
            )


def _check_value(file: StudyFile, axis: str, name: str, value: config.Scalar) -> None:
    """Refuse a value of an axis or of its condition that the setting cannot have."""
    names = file.form.names
    if name != forms.ONE:
        file.configuration({name: value, forms.ONE: file.form.detector_of(name) or names[0]})
    elif value not in names:
        raise UserError(
            f"search axis `{axis}` names the detector {cut(repr(value))}{suggestion(str(value), names)}; this study "
            f"has {', '.join(names)} ({file.where(axis)})"
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
    return list(dict.fromkeys(value_at(values, name, file.study) for values in points))


def _any_of(values: Iterable[config.Scalar]) -> str:
    return " or ".join(map(str, values))
