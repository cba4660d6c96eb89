"""Compares two choices, of one study or two, on the tasks and seeds that both ran."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.values import TASK, TRIAL_KEY, tasks_of
from puzzle_study.statistics import delong, intervals

IMAGES_NOTE = (
    "Interval over test images: DeLong’s method, 95 %, for these trained detectors. It covers images, not trainings: "
    "other trainings may differ by more."
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Choice A against choice B; positive differences: A is higher.

    ``first`` and ``second`` are their AUROCs on the same tasks and seeds.
    """

    sides: tuple[tuple[StudyData, Choice], tuple[StudyData, Choice]]
    first: pd.Series[float]
    second: pd.Series[float]

    @property
    def strata(self) -> list[Hashable]:
        """The task of each pair."""
        return tasks_of(self.first)

    @cached_property
    def difference(self) -> intervals.Difference:
        """The difference of the means over trainings."""
        return intervals.paired_difference(self.first.to_numpy(), self.second.to_numpy(), self.strata)

    @cached_property
    def chance(self) -> intervals.Mean:
        """The probability that A wins a trial on the same task."""
        return intervals.probability_of_improvement(self.first.to_numpy(), self.second.to_numpy(), self.strata)

    @cached_property
    def over_images(self) -> delong.ImageDifference | None:
        """The difference over the test images, or None without error matrices."""
        a, b = (_placed(data, choice, self.first.index) for data, choice in self.sides)
        return None if a is None or b is None else delong.image_difference(a, b)


def _placed(data: StudyData, choice: Choice, pairs: pd.Index[Any]) -> list[list[delong.Placed]] | None:
    """Return a choice's AUROCs with their images for each task, or None without error matrices.

    If a choice ran with fewer seeds, all trainings of these tasks count.
    """
    rows = data.of(choice)
    trials = dict(zip(rows[TRIAL_KEY].itertuples(index=False, name=None), rows["trial"], strict=True))
    tasks, own = {key[:-1] for key in pairs}, data.metric(choice).index
    found: dict[Hashable, list[delong.Placed]] = {}
    for key in pairs if pairs.isin(own).all() else [key for key in own if key[:-1] in tasks]:
        placed = data.placed(str(trials[key]), choice)
        if placed is None:
            return None
        found.setdefault(key[:-1], []).append(placed)
    return list(found.values())


def compare(first: tuple[StudyData, Choice], second: tuple[StudyData, Choice]) -> Comparison | None:
    """Compare choice A of a study with choice B of the same or another study; None if they share no task."""
    a, b = (data.metric(choice) for data, choice in (first, second))
    if first[1].is_reference:
        b, a = paired(b, a, reference=True)
    else:
        a, b = paired(a, b, reference=second[1].is_reference)
    return Comparison((first, second), a, b) if len(a) else None


def paired(
    first: pd.Series[float], second: pd.Series[float], *, reference: bool
) -> tuple[pd.Series[float], pd.Series[float]]:
    """Return two series on the tasks and seeds that they share.

    A ``reference`` with fewer seeds (most draw nothing) is paired by its mean over the seeds of each task.
    """
    common = first.index.intersection(second.index)
    if not reference or len(common) == len(first):
        return first.loc[common], second.loc[common]
    means = second.groupby(level=TASK).mean().to_dict()
    kept = first.loc[[task in means for task in tasks_of(first)]]
    return kept, pd.Series([means[task] for task in tasks_of(kept)], index=kept.index, dtype=float)
