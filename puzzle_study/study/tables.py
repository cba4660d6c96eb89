"""Writes a study's tables from its records: trials.csv, epochs.parquet, summary.csv, selection.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from puzzle_study import config
from puzzle_study.config import Reading
from puzzle_study.config.axes import setting_of
from puzzle_study.config.forms import ONE, Form
from puzzle_study.detectors.scoring import AGGREGATIONS
from puzzle_study.results import Results, content_key
from puzzle_study.statistics import metrics
from puzzle_study.statistics.intervals import mean_interval
from puzzle_study.study.choosing import choice_columns, gap_rows
from puzzle_study.study.plan import Plan
from puzzle_study.study.planned import Planned
from puzzle_study.trials.following import FOLLOWED
from puzzle_study.trials.locating import COLUMNS as LOCATED
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec
from puzzle_study.trials.worth import (
    configuration_worth,
    criterion,
    gain,
    lacking,
    pareto_front,
    summary_column,
    trial_value,
)

METRICS = (
    *(field.name for field in fields(metrics.Evaluation) if field.name not in ("n", "n_anomalies")),
    "flagged_normal",
    "flagged_anomalous",
    "selection",
    "worst_kind",
    "robust_auroc",
    "robust_selection",
    "corrupted_selection",
    "corrupted_fpr",
    *LOCATED,
)
PLAIN = (
    "epochs",
    "images_seen",
    "images_scored",
    "seconds",
    "train_seconds",
    "evaluation_seconds",
    "score_seconds",
    "images_per_second",
    "precision",
    "k",
    "selection_k",
    "val_error",
    "n_train",
    "n_validation",
    "n_test",
    "n_anomalies",
    "n_masks",
)
AUROC = ("auroc_mean", "auroc_std", "auroc_low", "auroc_high", "interval")
LAST = 20
History = Mapping[str, Sequence[float | None]]
CONFIGURATION, REFERENCE = "configuration", "reference"
"""A detector's role in a study: compared and may win, or shown beside."""


def write_tables(plan: Plan, results: Results) -> None:
    """Write the four tables from all existing records."""
    axes = training_axes(plan.study)
    rows, epochs = [], EpochTable()
    trials = [(REFERENCE, spec, spec.settings) for spec in plan.references]
    trials += [(CONFIGURATION, spec, planned.settings) for planned in plan.configurations for spec in planned.trials]
    for role, spec, settings in trials:
        reason = plan.given_up(spec.key)
        record = plan.records.get(spec.key) or (Record(spec, "stopped", reason) if reason else None)
        if record is None:
            continue
        searched = {name: setting_of(settings, name) for name in axes} if role == CONFIGURATION else {}
        history = (results.record(spec.key) or {}).get("history", {})
        rows.append(trial_row(role, record, history, searched, settings.own.reading.error))
        epochs.add(spec.key, history, settings.own.reading.error)
    results.write_table(results.trials_file, pd.DataFrame(rows))
    results.write_table(results.epochs_file, epochs.frame())
    results.write_table(results.summary_file, pd.DataFrame(summary_rows(plan, axes)))
    gaps = gap_rows(plan)
    results.write_table(results.selection_file, pd.DataFrame(gaps, columns=None if gaps else ["scope", "criterion"]))


def training_axes(study: config.Study) -> list[str]:
    """Return the searched settings that need training, in the order of the study file."""
    free = Form.of_study(study).free()
    return [name for name in (study.search.space if study.search else {}) if name not in free and name != ONE]


def trial_row(role: str, record: Record, history: History, searched: Mapping[str, Any], error: str) -> dict[str, Any]:
    """Return a trial's row of trials.csv, with its searched settings and the metrics under an error norm."""
    spec = record.spec
    row: dict[str, Any] = {
        "trial": spec.key,
        "configuration": spec.configuration,
        "status": record.status,
        "error": record.error,
        "role": role,
        "detector": spec.detector,
        "norm": error,
        "dataset": spec.task.dataset,
        "normal_class": spec.task.normal_class,
        "repeat": spec.task.repeat,
        "seed": spec.seed,
        **searched,
    }
    if spec.along:
        row["training"] = spec.stem
    row |= {name: record.column(name) for name in PLAIN}
    if (described := record.column("described")) is not None:
        row["described"] = content_key({"described": described}, length=8)
    if record.finished:
        row["note"] = lacking([record.tested])
        for aggregation in AGGREGATIONS:
            values = record.read(Reading(error, aggregation))
            for name in METRICS:
                stem, _, end = name.partition("_") if name in ("auroc_low", "auroc_high") else (name, "", "")
                if name in values:
                    row[f"{stem}_{aggregation}" + (f"_{end}" if end else "")] = values[name]
            along = history.get(f"auroc_{aggregation}_{error}", [])
            last = [value for value in along if value is not None][-LAST:]
            row[f"last20_{aggregation}_mean"] = float(np.mean(last)) if last else math.nan
            row[f"last20_{aggregation}_std"] = float(np.std(last, ddof=1)) if len(last) > 1 else math.nan
    return row


class EpochTable:
    """Builds epochs.parquet: what each trial's detector reports for each epoch, and the AUROC.

    Column by column, because joining a frame for each trial takes seconds for every thousand of them.
    """

    def __init__(self) -> None:
        self._trials: list[str] = []
        self._epochs: list[int] = []
        self._columns: dict[str, list[tuple[int, Sequence[float | None]]]] = {}
        """By name, in the order of appearance: values of a trial, with the row of the first one."""

    def add(self, trial: str, history: History, error: str) -> None:
        """Add a trial's rows, with the metrics under an error norm."""
        epochs = history.get("epoch", ())
        start = len(self._epochs)
        columns = {
            name: values
            for name, values in history.items()
            if name != "epoch" and name.partition("_")[0] not in FOLLOWED
        }
        for followed in FOLLOWED:
            for aggregation in AGGREGATIONS:
                if (column := history.get(f"{followed}_{aggregation}_{error}")) is not None:
                    columns[f"{followed}_{aggregation}"] = column
        for name, values in columns.items():
            self._columns.setdefault(name, []).append((start, values))
        self._trials += [trial] * len(epochs)
        self._epochs += [int(epoch or 0) for epoch in epochs]

    def frame(self) -> pd.DataFrame:
        """Return the table; a value that a trial does not have is NaN."""
        if not self._epochs:
            return pd.DataFrame(columns=["trial", "epoch", *(f"auroc_{name}" for name in AGGREGATIONS)])
        columns: dict[str, Any] = {"trial": self._trials, "epoch": np.array(self._epochs, dtype=np.int64)}
        for name, parts in self._columns.items():
            columns[name] = np.full(len(self._epochs), math.nan)
            for start, values in parts:
                columns[name][start : start + len(values)] = np.array(values, dtype=np.float64)
        return pd.DataFrame(columns)


def summary_rows(plan: Plan, axes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of summary.csv: every configuration under every aggregation, ranked, and the references."""
    study = plan.study
    winner = plan.winner()
    chosen = choice_columns(plan)
    rows = []
    for planned in plan.configurations:
        may_win = plan.readings(planned)
        for reading in _shown(planned, may_win):
            is_winner = winner is not None and winner[0] is planned and winner[1] == reading
            row = _summary_row(plan, CONFIGURATION, planned.trials, reading)
            row["label"] = ";".join(["winner"] * is_winner + ["default"] * planned.default)
            row["number"] = planned.number
            row |= {name: setting_of(planned.settings, name) for name in axes}
            row["may_win"] = reading in may_win and row["complete"]
            row["given_up"] = planned.given_up
            row |= chosen.get((planned.configuration, reading), {})
            rows.append(row)
    _rank([row for row in rows if row["may_win"]], plan)
    for name in dict.fromkeys(spec.detector for spec in plan.references):
        specs = [spec for spec in plan.references if spec.detector == name]
        rows.append(_summary_row(plan, REFERENCE, specs, specs[0].settings.own.reading))
    for row in rows:
        row["selection"] = study.selection
    return rows


def _shown(planned: Planned, may_win: Sequence[Reading]) -> list[Reading]:
    """Return the readings of a configuration that have a row: those that may win, and its other aggregations."""
    if not planned.settings.own.FREE:
        return list(may_win)
    others = (Reading(reading.error, name) for reading in may_win for name in AGGREGATIONS)
    return list(dict.fromkeys([*may_win, *others]))


def _rank(contenders: list[dict[str, Any]], plan: Plan) -> None:
    """Write the ranks by what chooses, and with several objectives which rows are on the Pareto front."""
    columns = plan.objectives
    worths = [tuple(row[summary_column(name, plan.study.selection)] for name in columns) for row in contenders]
    gains = [row.get("goodness", gain(columns[0], worth[0])) for row, worth in zip(contenders, worths, strict=True)]
    order = sorted(
        range(len(contenders)),
        key=lambda index: (-np.nan_to_num(gains[index], nan=-np.inf), contenders[index]["number"]),
    )
    for rank, index in enumerate(order, start=1):
        contenders[index]["rank"] = rank
    if len(columns) > 1:
        for row, on_front in zip(contenders, pareto_front(worths, columns), strict=True):
            row["pareto"] = on_front


def _summary_row(plan: Plan, role: str, specs: Sequence[TrialSpec], reading: Reading) -> dict[str, Any]:
    records = [record for spec in specs if (record := plan.records.get(spec.key)) and record.finished]
    row: dict[str, Any] = {
        "configuration": specs[0].configuration,
        "label": "",
        "role": role,
        "detector": specs[0].detector,
        "error": reading.error,
        "aggregation": reading.aggregation,
        "trials": len(records),
        "expected": len(specs),
        "complete": len(records) == len(specs),
        "rank": None,
    }
    if not records:
        return row
    row["note"] = lacking([record.tested for record in records])
    measured = [record for record in records if not metrics.lacking(*record.tested)]
    row |= _auroc(measured, reading) if measured else dict.fromkeys(AUROC)
    for name in LOCATED:
        values = [value for record in records if (value := record.value(reading, name)) is not None]
        if values:
            row[name] = float(np.mean(values))
    row |= {name: records[0].column(name) for name in ("k", "selection_k")}
    row["selection_mean"] = configuration_worth(records, reading, [criterion(plan.study.selection)])[0]
    if role == CONFIGURATION:
        worth = configuration_worth(records, reading, plan.objectives)
        row |= {
            summary_column(name, plan.study.selection): value
            for name, value in zip(plan.objectives, worth, strict=True)
        }
    return row


def _auroc(records: Sequence[Record], reading: Reading) -> dict[str, Any]:
    """Return the columns ``AUROC`` of trials that have an AUROC."""
    values = [trial_value(record, reading, "auroc") for record in records]
    strata = [(record.spec.task.normal_class, record.spec.task.repeat) for record in records]
    mean = mean_interval(values, strata, bounds=(0, 1))
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return dict(zip(AUROC, (mean.value, spread, mean.low, mean.high, mean.method), strict=True))
