"""What a study file may not say of its search axes: found when it is loaded, not half-way through a study."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from puzzle_study import config
from puzzle_study.axes import EVALUATION_AXES, Values, combinations, cycle, setting_of
from puzzle_study.errors import UserError, suggestion

if TYPE_CHECKING:
    from puzzle_study.studyfile import StudyFile

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


def searchable() -> list[str]:
    """Return the dotted names of all settings that an axis may vary."""
    return [name for name in conditions() if name not in UNTRAINED and not name.startswith(FOLLOWING)]


def conditions() -> list[str]:
    """Return the dotted names of all settings that a condition may name."""
    from puzzle_study.studyfile import setting_names

    return [name for name in setting_names(config.Settings) if name != "data.name"]


def _check_names(file: StudyFile, name: str, axis: config.Axis) -> None:
    known = conditions()
    for dotted in (name, *(axis.when or {})):
        if dotted not in known:
            raise UserError(
                f"search axis `{dotted}` is not a setting of a configuration{suggestion(dotted, known)} "
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
