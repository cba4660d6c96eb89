"""Which configuration wins under which reading: for all tasks together, and for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from puzzle_study.config import Reading
from puzzle_study.criteria.base import Candidate, Scored
from puzzle_study.criteria.ensemble import blended, members
from puzzle_study.criteria.gap import Gap, selection_gaps
from puzzle_study.criteria.ranks import best_first
from puzzle_study.criteria.registry import CRITERIA
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors import scoring
from puzzle_study.study.planned import Best, Planned
from puzzle_study.trials.worth import gain, trial_value

if TYPE_CHECKING:
    from puzzle_study.study.plan import Plan


@dataclass(frozen=True, eq=False)
class Ranking:
    """Complete configurations under each reading that may win, [M], and how good each is on each task, [T, M]."""

    entries: tuple[Best, ...]
    goodness_TM: npt.NDArray[np.floating]

    @cached_property
    def overall(self) -> npt.NDArray[np.floating]:
        """Mean over tasks, [M]."""
        return np.asarray(self.goodness_TM.mean(0))

    def best_first(self) -> list[Best]:
        """Return each configuration once, under its best reading; earlier ones win ties."""
        found: dict[str, Best] = {}
        for index in best_first(self.overall):
            found.setdefault(self.entries[index][0].configuration, self.entries[index])
        return list(found.values())

    def of_task(self, task: int) -> Best:
        """Return the best entry on a task."""
        return self.entries[best_first(self.goodness_TM[task])[0]]

    def together(self, task: int | None) -> list[Best]:
        """Return the entries that an ensemble is made of, on a task or (None) on all."""
        names = [planned.configuration for planned, _, _ in self.entries]
        return [self.entries[i] for i in members(names, self.overall if task is None else self.goodness_TM[task])]


def ranking(plan: Plan) -> Ranking | None:
    """Return how good what is complete is by the study's selection, or None if nothing is."""
    entries = tuple(
        (planned, reading, worth)
        for planned in plan.configurations
        if planned.worth is not None
        for reading, worth in planned.worth.items()
    )
    if not entries:
        return None
    criterion = CRITERIA[plan.study.selection]
    if not criterion.compares:
        return Ranking(entries, np.array([[_value(plan, entry, task) for entry in entries] for task in plan.tasks]))
    names = [(planned.configuration, reading) for planned, reading, _ in entries]
    rows = []
    for candidates in Candidates(plan).values():
        found = {(one.configuration, one.reading): one for one in candidates if one.may_win}
        rows.append(criterion.goodness([found[name, _name(reading)] for name, reading in names], plan.weights))
    return Ranking(entries, np.array(rows))


def _value(plan: Plan, entry: Best, task: TaskSpec) -> float:
    """Return how good a configuration is on a task by the study's first objective, turned so that higher is better."""
    planned, reading, _ = entry
    records = [plan.records[spec.key] for spec in planned.trials if spec.task == task]
    objective = plan.objectives[0]
    return gain(objective, fmean(trial_value(record, reading, objective) for record in records))


class Candidates(Mapping[TaskSpec, list[Candidate]]):
    """The candidates of each task, read from the error matrices whenever a task is asked for.

    All aggregations are among them, those that may not win too. A configuration without all its matrices is left out.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._complete = [
            planned
            for planned in plan.configurations
            if planned.worth is not None and all(plan.results.errors_file(spec.key).exists() for spec in planned.trials)
        ]

    def __iter__(self) -> Iterator[TaskSpec]:
        return iter(self._plan.tasks if self._complete else ())

    def __len__(self) -> int:
        return len(self._plan.tasks) if self._complete else 0

    def __getitem__(self, task: TaskSpec) -> list[Candidate]:
        """Return the candidates.

        Raises:
            UserError: a file of error matrices is damaged.
        """
        return [candidate for planned in self._complete for candidate in self._of(planned, task)]

    def _of(self, planned: Planned, task: TaskSpec) -> list[Candidate]:
        plan = self._plan
        may_win, own = plan.readings(planned), plan.study.detectors[planned.settings.detector].reading
        others = [Reading(reading.error, name) for reading in (*may_win, own) for name in scoring.AGGREGATIONS]
        readings = list(dict.fromkeys([*may_win, own, *(others if planned.settings.own.FREE else ())]))
        runs = [_scored(plan.results.errors(spec.key), readings) for spec in planned.trials if spec.task == task]
        return [
            Candidate(
                planned.configuration,
                planned.settings.detector,
                _name(reading),
                tuple(run[place] for run in runs),
                default=planned.default,
                own=reading == own,
                may_win=reading in may_win,
            )
            for place, reading in enumerate(readings)
        ]


def _name(reading: Reading) -> str:
    return f"{reading.aggregation} {reading.error}"


def _scored(arrays: Mapping[str, np.ndarray], readings: Sequence[Reading]) -> list[Scored]:
    """Return the scores of a trial under each reading."""
    found = []
    for reading in readings:
        read = scoring.matrix_scores(arrays, reading)
        scores = {"validation_N": read[scoring.COMPARED], "pseudo_N": read["pseudo"], "test_N": read["test"]}
        earlier = (scoring.scores(one, one, reading).numpy() for one in torch.from_numpy(arrays["earlier"]))
        kinds = tuple(arrays["pseudo_kind"].tolist())
        labels_N, error = arrays["labels"].astype(bool), float(arrays["validation"].mean())
        found.append(Scored(**scores, pseudo_kinds=kinds, labels_N=labels_N, val_error=error, earlier=tuple(earlier)))
    return found


def task_names(plan: Plan) -> dict[TaskSpec, str]:
    """Return what each task is called: its normal class, with the repeat if there are several."""
    repeats = len({task.repeat for task in plan.tasks}) > 1
    return {task: f"{task.normal_class} repeat {task.repeat}" if repeats else task.normal_class for task in plan.tasks}


def ensembles(plan: Plan) -> list[list[Best]]:
    """Return the members of each task's ensemble, the best first; none if the study chooses a single configuration."""
    ranking = plan.ranking() if CRITERIA[plan.study.selection].blends else None
    if ranking is None:
        return []
    per_task = plan.study.choose == "per_task"
    return [ranking.together(number if per_task else None) for number in range(len(plan.tasks))]


def ensemble_aurocs(plan: Plan, used: Sequence[Best], task: TaskSpec) -> list[float]:
    """Return the test AUROC of an ensemble for each seed; none without labels of both sorts."""
    found = []
    for place in range(len(plan.study.seeds)):
        specs = [[spec for spec in planned.trials if spec.task == task][place] for planned, _, _ in used]
        pairs = zip(specs, used, strict=True)
        runs = [_scored(plan.results.errors(spec.key), [reading])[0] for spec, (_, reading, _) in pairs]
        found.append(blended(runs).auroc)
    return [value for value in found if value is not None]


def choice_columns(plan: Plan) -> dict[tuple[str, Reading], dict[str, Any]]:
    """Return more columns of summary.csv, by configuration and reading.

    ``goodness`` is what a criterion that compares says; ``wins`` names the tasks that a row wins if each has a winner.
    """
    found: dict[tuple[str, Reading], dict[str, Any]] = {}
    if CRITERIA[plan.study.selection].compares and (ranking := plan.ranking()) is not None:
        for (planned, reading, _), goodness in zip(ranking.entries, ranking.overall, strict=True):
            found.setdefault((planned.configuration, reading), {})["goodness"] = float(goodness)
    if plan.study.choose == "per_task":
        for (_, name), (planned, reading, _) in zip(task_names(plan).items(), plan.winners(), strict=False):
            row = found.setdefault((planned.configuration, reading), {})
            row["wins"] = ";".join([*filter(None, [row.get("wins")]), name])
    return found


def gap_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return the rows of selection.csv: what each criterion would have chosen, in every scope with a choice."""
    tasks: Mapping[Any, list[Candidate]] = Candidates(plan)
    gaps = selection_gaps(tasks, plan.weights, per_task=plan.study.choose == "per_task")
    return [_row(gap, plan.study.selection) for gap in gaps]


def _row(gap: Gap, selection: str) -> dict[str, Any]:
    criterion = CRITERIA[gap.criterion]
    row: dict[str, Any] = {"scope": gap.scope, "criterion": gap.criterion, "selected": gap.criterion == selection}
    row |= {"uses_labels": criterion.uses_labels, "transductive": criterion.transductive}
    for name, value in asdict(gap).items():
        if name == "chosen":
            row[name] = ";".join(gap.chosen)
        elif isinstance(value, dict):
            row |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
        elif name not in row:
            row[name] = value
    return row
