"""What each criterion would have chosen, and what that is worth by test labels: the selection gap.

It needs no files: a task is a list of candidates, each with its scores. Shape legend: M candidates, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from puzzle_study.criteria.base import Candidate, Numbers, Weights
from puzzle_study.criteria.ensemble import blended, members
from puzzle_study.criteria.ranks import correlation
from puzzle_study.criteria.registry import CRITERIA
from puzzle_study.statistics.intervals import Estimate, mean_interval

SMALLEST_GAP = 1e-3
"""AUROC between default and oracle below which no share of it is given."""
NONE = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Gap:
    """A criterion's choice in a scope; numbers are means over tasks, with 95 % intervals over tasks, NaN if unknown.

    Attributes:
        criterion: its name.
        scope: what is chosen: ``everything``, the ``detector`` alone (by default settings), the ``settings`` alone
            (within each detector), the ``aggregation`` alone (within each configuration).
        chosen: names of the candidates that it chose, one, or one for each task; empty if there are several groups.
        auroc: test AUROC of the choice.
        default: of what is used if nobody chooses.
        random: of a random choice.
        median: of the median candidate.
        oracle: of the best candidate by test labels, per task if the choice is, else for all tasks together.
        lost: oracle minus choice.
        share: (choice − default) / (oracle − default), NaN if there is nothing to gain.
        correlation: rank correlation of the criterion and the test AUROC over candidates; NaN of fewer than three.
        agreement: mean rank correlation with the other criteria that use no labels.
        tasks: how many were measured.
        candidates: how many there are in all groups together.
    """

    criterion: str
    scope: str
    chosen: tuple[str, ...]
    auroc: Estimate = NONE
    default: float = float("nan")
    random: float = float("nan")
    median: float = float("nan")
    oracle: float = float("nan")
    lost: Estimate = NONE
    share: Estimate = NONE
    correlation: float = float("nan")
    agreement: float = float("nan")
    tasks: int = 0
    candidates: int = 0


@dataclass
class _Group:
    """Candidates among which one is chosen, by their places, with what is known of them on each task."""

    places: list[int]
    baseline: int
    auroc_TM: list[Numbers] = field(default_factory=list)
    goodness_TM: dict[str, list[Numbers]] = field(default_factory=dict)

    def choices(self, criterion: str, *, per_task: bool) -> list[Numbers] | None:
        """Return the goodness that decides on each task, [T] of [M]; None: the criterion cannot tell."""
        found = np.array(self.goodness_TM[criterion])
        deciding = found if per_task else np.tile(found.mean(0), (len(found), 1))
        if np.isnan(deciding).all(1).any():
            return None
        return list(np.nan_to_num(deciding, nan=-np.inf))


def selection_gaps(
    tasks: Mapping[Any, Sequence[Candidate]], weights: Weights, *, per_task: bool, names: Sequence[str] = ()
) -> list[Gap]:
    """Return what criteria would have chosen in every scope that has something to choose.

    Args:
        tasks: the candidates of each task, the same ones in the same order. Tasks are looked up one after the other,
            once or twice, so that a mapping may load them when it is asked.
        weights: how much each kind of pseudo-anomaly counts.
        per_task: whether each task has a choice of its own; else one choice is made for all, by the mean over tasks.
        names: of the criteria; none: all.

    Raises:
        ValueError: the tasks have different candidates.
    """
    names = names or list(CRITERIA)
    scopes: dict[str, list[_Group]] = {}
    known: list[tuple[str, str]] = []
    for candidates in tasks.values():
        if not scopes:
            scopes, known = scopes_of(candidates), [(one.name, one.detector) for one in candidates]
        if known != [(one.name, one.detector) for one in candidates]:
            raise ValueError("all tasks need the same candidates in the same order")
        for group in (group for groups in scopes.values() for group in groups):
            those = [candidates[place] for place in group.places]
            group.auroc_TM.append(np.array([candidate.auroc for candidate in those]))
            for name in names:
                group.goodness_TM.setdefault(name, []).append(CRITERIA[name].goodness(those, weights))
    found = []
    for scope, groups in scopes.items():
        for name in names:
            decided = [(group, group.choices(name, per_task=per_task)) for group in groups]
            kept = [(group, choices) for group, choices in decided if choices is not None]
            if kept:
                reached_GT = _reached(tasks, kept, blends=CRITERIA[name].blends)
                gap = _measured(name, scope, [group for group, _ in kept], reached_GT, per_task=per_task)
                found.append(replace(gap, chosen=_named(known, kept)))
    return found


def _named(known: Sequence[tuple[str, str]], kept: Sequence[tuple[_Group, list[Numbers]]]) -> tuple[str, ...]:
    """Return the names of what is chosen in a single group: one if it is the same on all tasks."""
    if len(kept) > 1:
        return ()
    group, choices = kept[0]
    chosen = [known[group.places[int(decides_M.argmax())]][0] for decides_M in choices]
    return tuple(chosen[:1] if len(set(chosen)) == 1 else chosen)


def _measured(name: str, scope: str, groups: Sequence[_Group], reached_GT: Numbers, *, per_task: bool) -> Gap:
    """Return what a criterion's choices are worth, over the tasks that have an AUROC."""
    gap = Gap(
        name, scope, (), agreement=_agreement(name, groups), candidates=sum(len(group.places) for group in groups)
    )
    aurocs = [np.array(group.auroc_TM) for group in groups]
    measured = np.isfinite(reached_GT).all(0) & np.all([np.isfinite(auroc_TM).all(1) for auroc_TM in aurocs], axis=0)
    if not measured.any():
        return gap
    aurocs = [auroc_TM[measured] for auroc_TM in aurocs]
    chosen_T = reached_GT[:, measured].mean(0)
    default_T = np.mean([auroc_TM[:, group.baseline] for auroc_TM, group in zip(aurocs, groups, strict=True)], axis=0)
    oracle_T = np.mean([_best(auroc_TM, per_task=per_task) for auroc_TM in aurocs], axis=0)
    return replace(
        gap,
        auroc=mean_interval(chosen_T, range(len(chosen_T)), bounds=(0, 1)),
        default=float(default_T.mean()),
        random=float(np.mean([auroc_TM.mean() for auroc_TM in aurocs])),
        median=float(np.mean([np.median(auroc_TM, axis=1).mean() for auroc_TM in aurocs])),
        oracle=float(oracle_T.mean()),
        lost=_over_tasks(oracle_T - chosen_T),
        share=_share(chosen_T - default_T, oracle_T - default_T),
        correlation=_mean(
            correlation(goodness_M, auroc_M)
            for group in groups
            for goodness_M, auroc_M in zip(group.goodness_TM[name], group.auroc_TM, strict=True)
        ),
        tasks=int(measured.sum()),
    )


def _best(auroc_TM: Numbers, *, per_task: bool) -> Numbers:
    """Return what the best choice reaches on each task: one for each, or one for all."""
    return np.asarray(auroc_TM.max(1) if per_task else auroc_TM[:, int(auroc_TM.mean(0).argmax())])


def _over_tasks(value_T: Numbers) -> Estimate:
    return mean_interval(value_T, range(len(value_T)))


def _share(gained_T: Numbers, possible_T: Numbers) -> Estimate:
    """Return a ratio of means over tasks; its interval is that of the tasks' deviations from it (delta method)."""
    possible = float(possible_T.mean())
    if possible < SMALLEST_GAP:
        return NONE
    ratio = float(gained_T.mean()) / possible
    return _over_tasks(ratio + (gained_T - ratio * possible_T) / possible)


def _agreement(name: str, groups: Sequence[_Group]) -> float:
    """Return the mean rank correlation of a criterion with the others that use no labels."""
    return _mean(
        correlation(own_M, other_M)
        for group in groups
        for other, goodness_TM in group.goodness_TM.items()
        if other != name and not CRITERIA[other].uses_labels and not CRITERIA[other].blends
        for own_M, other_M in zip(group.goodness_TM[name], goodness_TM, strict=True)
    )


def _mean(values: Iterable[float]) -> float:
    """Return the mean of those that are numbers."""
    found = [value for value in values if np.isfinite(value)]
    return float(np.mean(found)) if found else float("nan")


def scopes_of(candidates: Sequence[Candidate]) -> dict[str, list[_Group]]:
    """Return the groups among which a criterion chooses, by scope; scopes without a choice are left out."""
    places = range(len(candidates))
    eligible = [place for place in places if candidates[place].may_win]
    own = [place for place in places if candidates[place].own]
    defaults = [place for place in own if candidates[place].default]
    # The study's own reading may not be one that may win.
    first = [place for place in eligible if place in defaults] or [p for p in eligible if candidates[p].default]
    scopes = {
        "everything": _groups([eligible], first),
        "detector": _groups([defaults], defaults),
        "settings": _groups(_split(own, [candidate.detector for candidate in candidates]), defaults),
        "aggregation": _groups(_split(places, [candidate.configuration for candidate in candidates]), own),
    }
    return {scope: found for scope, found in scopes.items() if found}


def _split(places: Iterable[int], names: Sequence[str]) -> list[list[int]]:
    """Return the places of each name."""
    found: dict[str, list[int]] = {}
    for place in places:
        found.setdefault(names[place], []).append(place)
    return list(found.values())


def _groups(parts: Iterable[list[int]], baselines: Sequence[int]) -> list[_Group]:
    """Return the parts with something to choose and something that is used if nobody does."""
    pairs = [(part, [place for place in part if place in baselines]) for part in parts if len(part) > 1]
    return [_Group(part, part.index(known[0])) for part, known in pairs if known]


def _reached(
    tasks: Mapping[Any, Sequence[Candidate]], kept: Sequence[tuple[_Group, list[Numbers]]], *, blends: bool
) -> Numbers:
    """Return the test AUROC of each group's choice on each task, [groups, T]."""
    if not blends:
        return np.array(
            [
                [auroc_M[int(decides_M.argmax())] for auroc_M, decides_M in zip(group.auroc_TM, choices, strict=True)]
                for group, choices in kept
            ]
        )
    reached = np.empty((len(kept), len(tasks)))
    for task, candidates in enumerate(tasks.values()):
        for number, (group, choices) in enumerate(kept):
            reached[number, task] = ensemble_auroc([candidates[place] for place in group.places], choices[task])
    return reached


def ensemble_auroc(candidates: Sequence[Candidate], goodness_M: Numbers) -> float:
    """Return the mean test AUROC over seeds of the ensemble of the first candidates, NaN without labels."""
    names = [candidate.configuration for candidate in candidates]
    used = [candidates[index] for index in members(names, goodness_M)]
    runs = zip(*(candidate.runs for candidate in used), strict=False)
    found = [blended(together).auroc for together in runs]
    return float(np.mean([value for value in found if value is not None])) if None not in found else float("nan")
