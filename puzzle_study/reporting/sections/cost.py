"""The cost of the numbers: seconds, images per second, epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import Blocks, Column, Figure, Paragraph, Table, section, table, words
from puzzle_study.reporting.cells import NOTHING, Cell, count, in_seconds, number, share, significant, word
from puzzle_study.reporting.choice import title_of
from puzzle_study.reporting.study_data import StudyData

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEASURES = (
    Column("epochs", "Epochs"),
    Column("train_seconds", "Training, s"),
    Column("score_seconds", "Scoring, s"),
    Column("images_per_second", "Images/s in training"),
)


@dataclass(frozen=True)
class _Point:
    name: str
    kind: str
    seconds: float
    auroc: float


@section("cost", "Cost")
def build(data: StudyData) -> Blocks:
    total = _duration(float(_numbers(data.finished, "seconds").sum()))
    wall = data.environment.get("wall_seconds")
    ran = f" in {_duration(float(wall))} of wall time" if isinstance(wall, (int, float)) else ""
    if "training" in data.finished:
        trainings = data.finished["training"].fillna(data.finished["trial"]).nunique()
        yield Paragraph(
            f"{len(data.finished)} trials of {trainings} trainings have finished{ran}. The seconds of a trial include "
            f"all of its training up to its own end, though other trials may share it."
        )
    else:
        yield Paragraph(f"{len(data.finished)} finished trials took {total} of computing{ran}.")
    yield _table(data)
    yield _figure(data)


def _table(data: StudyData) -> Table:
    """Return mean and range of each measure for the winner, the default, each detector and each reference."""
    named = {"winner": data.winner, "default": data.default}
    groups = [(f"{name}, {data.titled(one)}", data.of(one)) for name, one in named.items() if one]
    own = data.finished[data.finished["role"] == "configuration"]
    if data.compares_detectors:
        groups += [(f"all of {title_of(str(name))}", trials) for name, trials in own.groupby("detector", sort=False)]
    else:
        groups.append(("all configurations", own))
    groups += [(one.title, data.finished[data.finished["detector"] == one.detector]) for one in data.references]
    rows = [
        {
            words("what", "What"): word(title),
            **{measure: _range(trials, measure.key) for measure in MEASURES},
            words("precision", "Precision"): word(
                ", ".join(sorted(set(trials["precision"].dropna().astype(str)))) if "precision" in trials else ""
            ),
            Column("total_seconds", "All trials, s"): number(float(_numbers(trials, "seconds").sum())),
            Column("trials", "Trials (n)"): count(len(trials)),
        }
        for title, trials in groups
    ]
    note = f"Mean over finished trials (lowest to highest); no interval. {_hardware(data)}"
    return table("cost", "Cost of a trial", rows, note)


def _figure(data: StudyData) -> Figure | None:
    winner = data.winner
    if winner is None:
        return None
    choices = {}
    for configuration in data.configurations["configuration"].astype(str).unique():
        kind = "winner" if configuration == winner.configuration else "configuration"
        choices[data.read_by(configuration, winner.aggregation, winner.error)] = kind
    choices |= {one: one.title for one in data.references}
    points = [
        _Point(
            data.called(choice),
            kind,
            _mean(data.numbers(choice, "seconds")),
            _mean(data.numbers(choice)),
        )
        for choice, kind in choices.items()
    ]
    points = [point for point in points if point.seconds > 0 and not pd.isna(point.auroc)]
    if len(points) < 2:
        return None
    with drawing.drawing(5.6, 3.8) as (figure, (place,)):
        kinds = list(dict.fromkeys(point.kind for point in points))
        for kind in sorted(kinds, key=lambda kind: kind != "configuration"):
            own = [point for point in points if point.kind == kind]
            index, won = sorted(kinds).index(kind), kind == "winner"
            points_drawn = place.scatter(
                [point.seconds for point in own],
                [100 * point.auroc for point in own],
                label=kind,
                s=130 if won else 40,
                marker="*" if won else "oDs^vP"[index % 6],
                color=drawing.PALETTE[(3 if won else index if index < 3 else index + 1) % len(drawing.PALETTE)],
            )
            told = [f"{one.name}: {significant(one.seconds)} s, AUROC {share(one.auroc)} %" for one in own]
            drawing.tell(points_drawn, told)
        seconds = [point.seconds for point in points]
        if max(seconds) > 10 * min(seconds):
            place.set_xscale("log")
        place.xaxis.set_major_formatter("{x:g}")
        place.set(xlabel="seconds per trial (mean)", ylabel="AUROC, %")
        place.legend(fontsize=8)
        cheapest, best = min(points, key=lambda point: point.seconds), max(points, key=lambda point: point.auroc)
        return drawing.finished(
            figure,
            name="cost",
            alt=f"Scatter of AUROC against seconds per trial for {len(points)} configurations and references: the "
            f"cheapest is {cheapest.kind} ({significant(cheapest.seconds)} s, {100 * cheapest.auroc:.1f} %), the "
            f"highest AUROC has {best.kind} ({significant(best.seconds)} s, {100 * best.auroc:.1f} %).",
            caption=f"Mean AUROC ({winner.aggregation}) against mean seconds per trial, training and scoring together; "
            f"one point per configuration or reference (n = {len(points)}), no intervals drawn.",
        )


def _range(trials: pd.DataFrame, key: str) -> Cell:
    values = _numbers(trials, key).dropna()
    if not len(values):
        return Cell(NOTHING)
    mean = float(values.mean())
    written = in_seconds if key.endswith("seconds") else significant
    text, low, high = (written(float(value)) for value in (mean, values.min(), values.max()))
    if low != high:
        text += f" ({low} to {high})"
    return Cell(text, mean)


def _mean(number_N: NDArray[np.float64]) -> float:
    """Return the mean of those that are not missing; NaN if all are."""
    known_N = number_N[~np.isnan(number_N)]
    return float(known_N.mean()) if len(known_N) else np.nan


def _numbers(trials: pd.DataFrame, key: str) -> pd.Series[float]:
    return pd.to_numeric(trials[key], errors="coerce") if key in trials else pd.Series(dtype=float)


def _hardware(data: StudyData) -> str:
    hardware = data.environment.get("hardware")
    if not isinstance(hardware, dict):
        return "The hardware was not recorded."
    return (
        f"Measured on {hardware.get('cpu', 'an unknown CPU')}, {hardware.get('cores', '?')} cores, "
        f"{hardware.get('gpu') or 'no GPU'}, while other trials may have run at the same time."
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
