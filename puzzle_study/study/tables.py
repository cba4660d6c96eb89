"""Writes a study's tables from its records: trials.csv, epochs.parquet, summary.csv."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from puzzle_study import config
from puzzle_study.config.axes import EVALUATION_AXES, setting_of
from puzzle_study.detectors.scoring import AGGREGATIONS
from puzzle_study.results import Results, content_key
from puzzle_study.statistics import metrics
from puzzle_study.statistics.intervals import mean_interval
from puzzle_study.study.plan import Plan
from puzzle_study.study.selection import (
    Reading,
    configuration_worth,
    criterion,
    gain,
    lacking,
    pareto_front,
    summary_column,
)
from puzzle_study.trials.spec import PUZZLE_AE, TrialSpec

METRICS = (
    "auroc",
    "auroc_low",
    "auroc_high",
    "inverted",
    "average_precision",
    "fpr_at_tpr95",
    "fpr_at_tpr99",
    "fpr_at_tpr995",
    "flagged_normal",
    "flagged_anomalous",
    "selection",
    "robust_auroc",
    "robust_selection",
)
PLAIN = (
    "epochs",
    "images_seen",
    "seconds",
    "train_seconds",
    "evaluation_seconds",
    "score_seconds",
    "images_per_second",
    "precision",
    "k",
    "val_error",
    "n_train",
    "n_validation",
    "n_test",
    "n_anomalies",
)
AUROC = ("auroc_mean", "auroc_std", "auroc_low", "auroc_high", "interval")
LAST = 20


def write_tables(plan: Plan, results: Results) -> None:
    """Write the three tables of everything that has a record so far."""
    axes = training_axes(plan.study)
    error = plan.study.score.error
    rows, epochs = [], []
    for spec, settings in _specs(plan):
        record = plan.records.get(spec.key) or _never_run(plan, spec)
        if record is None:
            continue
        searched = {name: setting_of(settings, name) for name in axes} if spec.detector == PUZZLE_AE else {}
        rows.append(trial_row(spec, record, searched, error))
        epochs.append(epoch_rows(spec, record, error))
    results.write_table(results.trials_file, pd.DataFrame(rows))
    columns = ["trial", "epoch", "loss_rec", "loss_adv", "loss_d", "lr", *(f"auroc_{name}" for name in AGGREGATIONS)]
    history = [frame for frame in epochs if len(frame)]
    results.write_table(
        results.epochs_file,
        pd.concat(history, ignore_index=True) if history else pd.DataFrame(columns=columns),
    )
    results.write_table(results.summary_file, pd.DataFrame(summary_rows(plan, axes)))


def _never_run(plan: Plan, spec: TrialSpec) -> Mapping[str, Any] | None:
    """Return what stands for a trial that was not run because its configuration was given up."""
    reason = plan.given_up(spec.key)
    return {"status": "stopped", "error": reason} if reason else None


def training_axes(study: config.Study) -> list[str]:
    """Return the searched settings that need training, in the order of the study file."""
    return [name for name in (study.search.space if study.search else {}) if name not in EVALUATION_AXES]


def trial_row(
    spec: TrialSpec, record: Mapping[str, Any], searched: Mapping[str, Any], error: config.ErrorNorm
) -> dict[str, Any]:
    """Return a trial's row of trials.csv."""
    row: dict[str, Any] = {
        "trial": spec.key,
        "configuration": spec.configuration,
        "status": record["status"],
        "error": record["error"],
        "detector": spec.detector,
        "dataset": spec.task.dataset,
        "normal_class": spec.task.normal_class,
        "repeat": spec.task.repeat,
        "seed": spec.seed,
        **searched,
    }
    row |= {name: record.get(name) for name in PLAIN}
    if record.get("permutations"):
        row["permutations"] = content_key({"permutations": record["permutations"]}, length=8)
    if record["status"] == "finished":
        row["note"] = lacking([(record["n_test"], record["n_anomalies"])])
        for aggregation in AGGREGATIONS:
            values = record["metrics"][error][aggregation]
            for name in METRICS:
                stem, _, end = name.partition("_") if name in ("auroc_low", "auroc_high") else (name, "", "")
                if name in values:
                    row[f"{stem}_{aggregation}" + (f"_{end}" if end else "")] = values[name]
            last = _evaluated(record, aggregation, error)[-LAST:]
            row[f"last20_{aggregation}_mean"] = float(np.mean(last)) if last else math.nan
            row[f"last20_{aggregation}_std"] = float(np.std(last, ddof=1)) if len(last) > 1 else math.nan
    return row


def epoch_rows(spec: TrialSpec, record: Mapping[str, Any], error: config.ErrorNorm) -> pd.DataFrame:
    """Return a trial's rows of epochs.parquet."""
    history = record.get("history") or {}
    if not history:
        return pd.DataFrame()
    frame = pd.DataFrame({"trial": spec.key, "epoch": np.asarray(history["epoch"], dtype=np.int64)})
    for name in ("loss_rec", "loss_adv", "loss_d", "lr"):
        frame[name] = np.asarray(history[name], dtype=np.float64)
    for followed in ("auroc", "selection"):
        for aggregation in AGGREGATIONS:
            if (column := history.get(f"{followed}_{aggregation}_{error}")) is not None:
                frame[f"{followed}_{aggregation}"] = np.asarray(column, dtype=np.float64)
    return frame


def summary_rows(plan: Plan, axes: Sequence[str]) -> list[dict[str, Any]]:
    """Return summary.csv: every configuration under every aggregation, ranked, and the references."""
    study = plan.study
    winner = plan.winner()
    shown = list(
        dict.fromkeys(
            [*plan.readings, *(Reading(reading.error, name) for reading in plan.readings for name in AGGREGATIONS)]
        )
    )
    rows = []
    for planned in plan.configurations:
        for reading in shown:
            is_winner = winner is not None and winner[0] is planned and winner[1] == reading
            row = _summary_row(plan, planned.configuration, PUZZLE_AE, planned.trials, reading)
            row["label"] = ";".join(["winner"] * is_winner + ["default"] * (planned.number == 0))
            row["number"] = planned.number
            row |= {name: setting_of(planned.settings, name) for name in axes}
            row["may_win"] = reading in plan.readings and row["complete"]
            row["given_up"] = planned.given_up
            rows.append(row)
    _rank([row for row in rows if row["may_win"]], plan)
    for name in study.references:
        specs = [spec for spec in plan.references if spec.detector == name]
        rows.append(_summary_row(plan, name, name, specs, plan.readings[0]) | {"label": "", "aggregation": ""})
    for row in rows:
        row["selection"] = study.selection
    return rows


def _rank(contenders: list[dict[str, Any]], plan: Plan) -> None:
    """Write ranks by the first objective, and which rows are on the Pareto front where there are several."""
    columns = plan.objectives
    worths = [tuple(row[summary_column(name, plan.study.selection)] for name in columns) for row in contenders]
    contenders_in_order = sorted(
        zip(contenders, worths, strict=True), key=lambda pair: (-gain(columns[0], pair[1][0]), pair[0]["number"])
    )
    for rank, (row, _) in enumerate(contenders_in_order, start=1):
        row["rank"] = rank
    if len(columns) > 1:
        for row, on_front in zip(contenders, pareto_front(worths, columns), strict=True):
            row["pareto"] = on_front


def _summary_row(
    plan: Plan, configuration: str, detector: str, specs: Sequence[TrialSpec], reading: Reading
) -> dict[str, Any]:
    records = [record for spec in specs if (record := plan.records.get(spec.key)) and record["status"] == "finished"]
    row: dict[str, Any] = {
        "configuration": configuration,
        "label": "",
        "detector": detector,
        "error": reading.error,
        "aggregation": reading.aggregation,
        "trials": len(records),
        "expected": len(specs),
        "complete": len(records) == len(specs),
        "rank": None,
    }
    if not records:
        return row
    row["note"] = lacking([(record["n_test"], record["n_anomalies"]) for record in records])
    measured = [record for record in records if not metrics.lacking(record["n_test"], record["n_anomalies"])]
    row |= _auroc(measured, reading) if measured else dict.fromkeys(AUROC)
    row["selection_mean"] = configuration_worth(records, reading, [criterion(plan.study.selection)])[0]
    if detector == PUZZLE_AE:
        worth = configuration_worth(records, reading, plan.objectives)
        row |= {
            summary_column(name, plan.study.selection): value
            for name, value in zip(plan.objectives, worth, strict=True)
        }
    return row


def _auroc(records: Sequence[Mapping[str, Any]], reading: Reading) -> dict[str, Any]:
    """Return the columns ``AUROC`` of trials that have one."""
    values = [record["metrics"][reading.error][reading.aggregation]["auroc"] for record in records]
    strata = [(record["task"]["normal_class"], record["task"]["repeat"]) for record in records]
    mean = mean_interval(values, strata, bounds=(0, 1))
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return dict(zip(AUROC, (mean.value, spread, mean.low, mean.high, mean.method), strict=True))


def _specs(plan: Plan) -> Iterable[tuple[TrialSpec, config.Settings]]:
    for spec in plan.references:
        yield spec, spec.settings
    for planned in plan.configurations:
        for spec in planned.trials:
            yield spec, planned.settings


def _evaluated(record: Mapping[str, Any], aggregation: str, error: str) -> list[float]:
    column = (record.get("history") or {}).get(f"auroc_{aggregation}_{error}", [])
    return [value for value in column if value is not None]
