"""Search axes: their order, their conditions, and the combinations of their values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from puzzle_study import config
from puzzle_study.config import forms
from puzzle_study.config.forms import Form
from puzzle_study.config.types import Layer
from puzzle_study.detectors.registry import DETECTORS

if TYPE_CHECKING:
    from puzzle_study.config.read import StudyFile

MOST_COMBINATIONS = 10_000
Values = dict[str, config.Scalar]


def setting_of(settings: config.Settings, dotted: str) -> Any:
    """Return a setting by its dotted name; None if its section is left out or it is another detector's."""
    head, _, rest = dotted.partition(".")
    section: Any = settings if head in (*forms.SHARED, forms.ONE) else settings.own
    if head == settings.detector:
        dotted = rest
    elif head in DETECTORS:
        return None
    for part in dotted.split("."):
        if section is not None:
            fields = type(section).model_fields
            name = next((name for name, entry in fields.items() if part in (name, entry.alias)), part)
            section = getattr(section, name, None)
    return section


def with_detector_axis(space: Layer, form: Form) -> Layer:
    """Return the axes plus one for the detector, on which each detector's own axes depend.

    A detector without an axis is not one of its values, because only its default could be tried.
    """
    owners = {form.detector_of(name) for name in space if name != forms.ONE}
    searched = [name for name in form.names if name in owners or None in owners]
    found: Layer = {forms.ONE: space.get(forms.ONE, {"choice": searched or list(form.names)})}
    for name, axis in space.items():
        if isinstance(axis, dict) and (detector := form.detector_of(name)):
            when = axis.get("when") or {}
            if isinstance(when, dict):  # the file's own condition on the detector stays, and is refused later
                axis = axis | {"when": {forms.ONE: [detector], **when}}
        found.setdefault(name, axis)
    return found


def value_at(values: Values, name: str, study: config.Study) -> Any:
    """Return a setting's value from these axis values, or the detector's default."""
    if name in values:
        return values[name]
    return setting_of(study.settings(str(values.get(forms.ONE, study.first))), name)


def applies(axis: config.Axis, values: Values, study: config.Study) -> bool:
    """Return whether an axis's ``when`` holds for these values and the study's settings."""
    return all(value_at(values, name, study) in allowed for name, allowed in (axis.when or {}).items())


def chosen_values(
    axes: Iterable[tuple[str, config.Axis]], file: StudyFile, choose: Callable[[str, config.Axis], config.Scalar]
) -> Values:
    """Return the chosen value for each axis whose condition holds for the values before it."""
    values: Values = {}
    for name, axis in axes:
        if applies(axis, values, file.study):
            values[name] = choose(name, axis)
    return values


def ordered_axes(search: config.Search) -> list[tuple[str, config.Axis]]:
    """Return the axes, each after those in its condition; axes without a condition come first."""
    placed, waiting = _placed(search)
    assert not waiting, "a study file with such axes is refused when it is loaded"
    return placed


def cycle(search: config.Search) -> list[str]:
    """Return axes whose conditions form a circle, in order; empty if there is none."""
    _, waiting = _placed(search)
    path = list(waiting)[:1]
    while path:
        following = next(name for name in waiting[path[-1]].when or {} if name in waiting)
        if following in path:
            return path[path.index(following) :]
        path.append(following)
    return []


def combinations(file: StudyFile, names: Iterable[str]) -> list[Values] | None:
    """Return the combinations of values of the axes among these settings and of the axes in their conditions.

    Of many numbers only the smallest, the largest and those in a condition are tried. None: too many combinations.
    """
    search = file.study.search
    assert search is not None
    wanted, picked = set(names), list[tuple[str, config.Axis, list[Any]]]()
    for name, axis in reversed(ordered_axes(search)):
        if name in wanted:
            wanted |= (axis.when or {}).keys()
            picked.insert(0, (name, axis, _tried(name, axis, search.space)))

    def walk(at: int, values: Values) -> Iterator[Values]:
        if at == len(picked):
            yield values
            return
        name, axis, tried = picked[at]
        if applies(axis, values, file.study):
            for value in tried:
                yield from walk(at + 1, values | {name: value})
        else:
            yield from walk(at + 1, values)

    found = list(itertools.islice(walk(0, {}), MOST_COMBINATIONS + 1))
    return found if len(found) <= MOST_COMBINATIONS else None


def _placed(search: config.Search) -> tuple[list[tuple[str, config.Axis]], dict[str, config.Axis]]:
    """Return the axes in order, and those in a circle."""
    placed = []
    waiting = dict(sorted(search.space.items(), key=lambda item: item[1].when is not None))
    while (
        ready := next((n for n, axis in waiting.items() if not waiting.keys() & (axis.when or {})), None)
    ) is not None:
        placed.append((ready, waiting.pop(ready)))
    return placed, waiting


def _tried(name: str, axis: config.Axis, space: Mapping[str, config.Axis]) -> list[Any]:
    named = [value for other in space.values() for value in (other.when or {}).get(name, ())]
    values = list(axis.values)
    if axis.kind not in ("choice", "grid"):
        low, high = values
        values += [value for value in named if _is_number(value) and low < value < high]
    numbers = [value for value in values if _is_number(value)]
    kept = [*named, *([min(numbers), max(numbers)] if numbers else [])]
    return [value for value in values if not _is_number(value) or value in kept]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
