"""What won: one configuration for all tasks, or one for each, with its numbers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.values import TASK, TRIAL_KEY, auroc_mean, natural, tasks_of
from puzzle_study.statistics import intervals

if TYPE_CHECKING:
    from puzzle_study.reporting.study_data import StudyData

Task = tuple[Hashable, ...]


class WinningTrial(NamedTuple):
    """A trial of a winner: its place in the index of :meth:`Won.metric`, its name in the files, and how it is read."""

    key: Task
    trial: str
    choice: Choice


@dataclass(frozen=True, eq=False)
class Won:
    """The winner of each task, in natural order of the classes."""

    data: StudyData
    by_task: Mapping[Task, Choice]

    @property
    def choices(self) -> list[Choice]:
        """The winners, each once."""
        return list(dict.fromkeys(self.by_task.values()))

    def metric(self, metric: str = "auroc", suffix: str = "") -> pd.Series[float]:
        """Return a number per trial; see :meth:`StudyData.metric`."""
        parts = []
        for choice in self.choices:
            values = self.data.metric(choice, metric, suffix)
            parts.append(values[[self.by_task.get(key[:-1]) == choice for key in values.index]])
        return pd.concat(parts)

    def mean(self, metric: str = "auroc") -> intervals.Mean | None:
        """Return the mean over tasks and seeds with its interval, or None if no trial has the number."""
        values = self.metric(metric)
        if not len(values):
            return None
        if metric == "auroc":
            return auroc_mean(values, *(self.metric(suffix=end) for end in ("_low", "_high")))
        return intervals.mean_interval(values.to_numpy(), tasks_of(values), bounds=(0, 1))

    def trials(self) -> Iterator[WinningTrial]:
        """Yield the finished trials of each winner on its own tasks."""
        for choice in self.choices:
            rows = self.data.of(choice)
            for key, trial in zip(rows[TRIAL_KEY].itertuples(index=False, name=None), rows["trial"], strict=True):
                if self.by_task.get(key[:-1]) == choice:
                    yield WinningTrial(key, str(trial), choice)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows of trials.csv of these trials."""
        return self.data.finished[self.data.finished["trial"].isin([one.trial for one in self.trials()])]

    def name(self, task: Task) -> str:
        """Return what a task is called, as in the column ``wins``."""
        return _name(task, self.data)


def won(data: StudyData) -> Won | None:
    """Return what won in a study, or None if nothing did."""
    winner = data.winner
    if winner is None:
        return None
    rows = data.finished[data.finished["role"] == "configuration"][TASK].drop_duplicates()
    tasks = sorted(rows.itertuples(index=False, name=None), key=lambda task: (task[0], natural(task[1]), *task[2:]))
    found = dict.fromkeys(tasks, winner)
    if data.per_task:
        names = {_name(task, data): task for task in tasks}
        for _, row in data.configurations[data.configurations["wins"] != ""].iterrows():
            found |= {names[name]: data.choice(row) for name in row["wins"].split(";") if name in names}
    return Won(data, found)


def _name(task: Task, data: StudyData) -> str:
    repeats = len(np.unique(data.trials["repeat"])) > 1
    return f"{task[1]} repeat {task[2]}" if repeats else str(task[1])
