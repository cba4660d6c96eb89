"""Checks of a study file's search axes and detectors when it is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from puzzle_study import config
from puzzle_study.config import forms
from puzzle_study.config.axes import Values, combinations, cycle, value_at
from puzzle_study.config.forms import Form
from puzzle_study.config.types import Rule
from puzzle_study.corruptions.registry import misfit
from puzzle_study.errors import UserError, cut, nearest_setting, suggestion

if TYPE_CHECKING:
    from puzzle_study.config.read import StudyFile

UNTRAINED = {
    "data.root": "says where the images are",
    "data.normal_classes": "says which tasks there are",
    "data.repeats": "says how many tasks there are",
}
"""Settings that cannot be searched because they do not affect training, with the reason."""
FOLLOWING = "evaluate."
"""Settings of this section do not affect training either: each value would train the same detector again."""


def check_search(file: StudyFile) -> None:
    """Refuse unknown axes, values that are not allowed, and conditions that cannot hold."""
    search = file.study.search
    if search is None:
        return
    for name, axis in search.space.items():
        _check_names(file, name, axis)
        if search.algorithm == "grid" and axis.kind not in ("choice", "grid"):
            raise _wrong(file, name, f"is {axis.kind}; `algorithm: grid` needs `grid` or `choice`")
        for value in axis.values:
            _check_value(file, name, name, value)
        for dotted, values in (axis.when or {}).items():
            for value in values:
                _check_value(file, name, dotted, value)
    if loop := cycle(search):
        around = " → ".join([*loop, loop[0]])
        raise _wrong(file, loop[0], f"depends on itself through `when` ({around}); remove one of these conditions")
    for name, axis in search.space.items():
        if axis.when:
            _check_condition(file, name, axis)


def check_corruptions(file: StudyFile) -> None:
    """Refuse corruptions that cannot be made of the study's images."""
    study = file.study
    named = {
        "data.augment": study.data.augment,
        "corruptions.kinds": (study.corruptions.kinds or ()) if study.corruptions else (),
        "evaluate.corrupted.kinds": study.evaluate.corrupted.kinds if study.evaluate.corrupted else (),
    }
    for setting, kinds in named.items():
        for kind in kinds:
            if (problem := misfit(kind, study.data.channels)) is not None:
                raise UserError(f"{problem}; leave it out of `{setting}` ({file.where_set([setting])})")


def check_rules(file: StudyFile) -> None:
    """Refuse settings that cannot be combined, the study's own and those of its axes."""
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
    """Return why a rule refuses a configuration, or None."""
    try:
        rule.check(settings.own, settings.data)
    except UserError as error:
        return str(error)
    return None


def _apart(file: StudyFile, search: config.Search, rule: Rule, values: Values, reason: str) -> str:
    """Return why axes cannot be combined, and how to exclude the combination."""

    def mends(name: str) -> bool:
        others = search.space[name].values
        return any(_broken(rule, file.configuration(values | {name: other})) is None for other in others)

    own = {name: value for name, value in values.items() if name != forms.ONE}
    met_in = [(name, value) for name, value in own.items() if mends(name)] or list(own.items())
    # An axis that needs no training can be in no condition.
    free = next((pair for pair in met_in if pair[0] in file.form.free()), None)
    (first, value), (last, final) = (free, free) if free else (met_in[0], met_in[-1])
    where = file.where(last)
    met = " and ".join(f"`{name}` {value}" for name, value in met_in)
    axis = search.space[first]
    apart = (search.space[last].when or {}).get(first) or (axis.values if axis.kind in ("choice", "grid") else ())
    rest = [other for other in apart if other != value]
    if first == last or not rest:
        problem = f"axis {met} is not possible" if len(met_in) == 1 else f"axes {met} cannot be combined"
        return f"search {problem}: {reason}; leave {final} out of `{last}` ({where})"
    listed = ", ".join(map(str, rest))
    return (
        f"search axes {met} cannot be combined: {reason}; search `{last}` only if it fits, with "
        f"`when: {{{first}: [{listed}]}}` ({where})"
    )


def searchable(form: Form) -> list[str]:
    """Return the dotted names of all searchable settings."""
    return [name for name in conditions(form) if name not in UNTRAINED and not name.startswith(FOLLOWING)]


def conditions(form: Form) -> list[str]:
    """Return the dotted names of all settings allowed in a condition."""
    names = [name for name in form.setting_names() if name != "data.name" and name.rpartition(".")[2] != "preset"]
    return [*names, forms.ONE] if form.several else names


def _check_names(file: StudyFile, name: str, axis: config.Axis) -> None:
    known, free = conditions(file.form), file.form.free()
    for dotted in (name, *(axis.when or {})):
        if dotted not in known:
            near = nearest_setting(dotted, (), known)
            raise UserError(
                f"search axis `{cut(dotted)}` is not a setting of a configuration{near} ({file.where(name)})"
            )
    if name not in searchable(file.form):
        why = UNTRAINED.get(name, "evaluates a training without changing it")
        raise _wrong(file, name, f"does not affect training: it {why}; remove it from `search.space` and set it once")
    owner = file.form.detector_of(name) if file.form.several else None
    if owner is not None and tuple((axis.when or {})[forms.ONE]) != (owner,):
        raise _wrong(file, name, f"is searched only with {owner}; remove `{forms.ONE}` from its `when`")
    if name in free and set(axis.when or {}) - {forms.ONE}:
        raise _wrong(
            file, name, "needs no training, so its values are all applied to every detector; remove its `when`"
        )
    assert file.study.search is not None
    for dotted in axis.when or {}:
        if dotted in free and dotted in file.study.search.space:
            raise _wrong(
                file,
                name,
                f"has a condition on `{dotted}`, whose values are all applied to every detector; remove that condition",
            )


def _check_value(file: StudyFile, axis: str, name: str, value: config.Scalar) -> None:
    """Refuse a value of an axis or its condition that the setting does not allow."""
    names = file.form.names
    if name != forms.ONE:
        file.configuration({name: value, forms.ONE: file.form.detector_of(name) or names[0]}, axis=axis)
    elif value not in names:
        near = suggestion(str(value), names)
        raise _wrong(file, axis, f"names the detector {cut(repr(value))}{near}; this study has {', '.join(names)}")


def _check_condition(file: StudyFile, name: str, axis: config.Axis) -> None:
    """Refuse a condition that never holds."""
    points = combinations(file, [name])
    if points is None or any(name in values for values in points):
        return
    wanted = " and ".join(f"{other} {_any_of(values)}" for other, values in (axis.when or {}).items())
    found = "; ".join(
        f"{other} is {_any_of(value_at(values, other, file.study) for values in points)}" for other in axis.when or {}
    )
    raise _wrong(file, name, f"is never searched: its `when` needs {wanted}, but in this study {found}")


def _wrong(file: StudyFile, axis: str, problem: str) -> UserError:
    return UserError(f"search axis `{axis}` {problem} ({file.where(axis)})")


def _any_of(values: Iterable[config.Scalar]) -> str:
    return " or ".join(map(str, dict.fromkeys(values)))
