"""What the numbers cost: seconds, images a second, epochs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import (
    NOTHING,
    Cell,
    Column,
    Figure,
    Paragraph,
    Section,
    Table,
    count,
    number,
    section,
    significant,
    word,
)
from puzzle_study.reporting.study_data import Choice, title_of

if TYPE_CHECKING:
    from puzzle_study.reporting.study_data import StudyData

MEASURES = (
    ("epochs", "Epochs"),
    ("train_seconds", "Training, s"),
    ("score_seconds", "Scoring, s"),
    ("images_per_second", "Images/s in training"),
)


def build(data: StudyData, figures: Path) -> Section:
    """Return the section."""
    return section("cost", "Cost", [_total(data), cost_table(data), _figure(data, figures)])


def cost_table(data: StudyData) -> Table:
    """Return mean and range of each measure for the winner, the default, all configurations and each reference."""
    groups: list[tuple[str, pd.DataFrame]] = []
    for name, choice in (("winner", data.winner), ("default", data.default)):
        if choice is not None:
            groups.append((f"{name} ({choice.configuration})", data.of(choice)))
    groups.append(("all configurations", data.finished[data.finished["role"] == "configuration"]))
    groups += [(title_of(name), data.finished[data.finished["detector"] == name]) for name in data.references]
    rows = []
    for title, trials in groups:
        precision = sorted(set(trials["precision"].dropna().astype(str))) if "precision" in trials else []
        rows.append(
            (
                word(title),
                *(_range(trials, key) for key, _ in MEASURES),
                word(", ".join(precision)),
                number(float(_numbers(trials, "seconds").sum())),
                count(len(trials)),
            )
        )
    return Table(
        "cost",
        "Cost of a trial",
        (
            Column("what", "What", numeric=False),
            *(Column(key, title) for key, title in MEASURES),
            Column("precision", "Precision", numeric=False),
            Column("total_seconds", "All trials, s"),
            Column("trials", "Trials (n)"),
        ),
        tuple(rows),
        f"Mean over finished trials (lowest to highest); no interval. {_hardware(data)}",
    )


def _total(data: StudyData) -> Paragraph | None:
    total = _numbers(data.finished, "seconds").sum()
    wall = data.environment.get("wall_seconds")
    ran = f" in {_duration(float(wall))} of wall time" if isinstance(wall, (int, float)) else ""
    return Paragraph(f"{len(data.finished)} finished trials took {_duration(float(total))} of computing{ran}.")


def _figure(data: StudyData, figures: Path) -> Figure | None:
    points: list[tuple[str, float, float, str]] = []
    winner = data.winner
    if winner is None:
        return None
    for configuration in data.configurations["configuration"].unique():
        choice = data.read_by(str(configuration), winner.aggregation, winner.error)
        points.append(_point(data, choice, "winner" if configuration == winner.configuration else "configuration"))
    points += [_point(data, data.reference(name), title_of(name)) for name in data.references]
    points = [point for point in points if point[1] > 0 and not pd.isna(point[2])]
    if len(points) < 2:
        return None
    with drawing.drawing(5.6, 3.8) as (figure, (place,)):
        kinds = list(dict.fromkeys(point[0] for point in points))
        for kind in sorted(kinds, key=lambda kind: kind != "configuration"):
            own = [point for point in points if point[0] == kind]
            index = sorted(kinds).index(kind)
            place.scatter(
                [point[1] for point in own],
                [100 * point[2] for point in own],
                label=kind,
                s=130 if kind == "winner" else 40,
                marker="*" if kind == "winner" else "oDs^vP"[index % 6],
                color=drawing.PALETTE[3] if kind == "winner" else drawing.PALETTE[index if index < 3 else index + 1],
            )
        seconds = [point[1] for point in points]
        if max(seconds) > 10 * min(seconds):
            place.set_xscale("log")
        place.xaxis.set_major_formatter("{x:g}")
        place.set(xlabel="seconds a trial (mean)", ylabel="AUROC, %")
        place.legend(fontsize=8)
        cheapest, best = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[2])
        return drawing.finished(
            figure,
            figures,
            name="cost",
            alt=f"Scatter of AUROC against seconds a trial for {len(points)} configurations and references: the "
            f"cheapest is {cheapest[0]} ({significant(cheapest[1])} s, {100 * cheapest[2]:.1f} %), the highest AUROC "
            f"has {best[0]} ({significant(best[1])} s, {100 * best[2]:.1f} %).",
            caption=f"Mean AUROC ({winner.aggregation}) against mean seconds a trial, training and scoring together; "
            f"one point a configuration or reference (n = {len(points)}), no intervals drawn.",
        )


def _point(data: StudyData, choice: Choice, kind: str) -> tuple[str, float, float, str]:
    seconds = _numbers(data.of(choice), "seconds").mean()
    values = data.metric(choice)
    return kind, float(seconds), float(values.mean()) if len(values) else float("nan"), choice.configuration


def _range(trials: pd.DataFrame, key: str) -> Cell:
    values = _numbers(trials, key).dropna()
    if not len(values):
        return Cell(NOTHING)
    mean = float(values.mean())
    text = significant(mean)
    if values.min() != values.max():
        text += f" ({significant(float(values.min()))} to {significant(float(values.max()))})"
    return Cell(text, mean)


def _numbers(trials: pd.DataFrame, key: str) -> pd.Series[float]:
    return pd.to_numeric(trials[key], errors="coerce") if key in trials else pd.Series(dtype=float)


def _hardware(data: StudyData) -> str:
    hardware = data.environment.get("hardware")
    if not isinstance(hardware, dict):
        return "The hardware is not on record."
    gpu = hardware.get("gpu")
    return (
        f"Measured on {hardware.get('cpu', 'an unknown CPU')}, {hardware.get('cores', '?')} cores, "
        f"{gpu or 'no GPU'}, while other trials may have run beside it."
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
