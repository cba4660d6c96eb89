"""What is left when lamps dim, cameras move and lenses go out of focus: at the threshold, and of the AUROC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns

from puzzle_study.corruptions.base import CLEAN, NONE
from puzzle_study.corruptions.registry import CORRUPTIONS
from puzzle_study.corruptions.tolerance import Tolerance, tolerance
from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE
from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import (
    Blocks,
    Column,
    Figure,
    Paragraph,
    Row,
    Table,
    absent,
    finding,
    section,
    table,
    words,
)
from puzzle_study.reporting.cells import NOTHING, Cell, capital, count, estimated, share, word
from puzzle_study.reporting.choice import Choice, title_of
from puzzle_study.reporting.sections.robustness import VICTIM, configuration_title
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.values import TASK
from puzzle_study.statistics import intervals

MEASURES = {"auroc": "AUROC", "flagged_normal": "false alarms (FPR)", "flagged_anomalous": "catches (TPR)"}
TOLERANCES = {
    "false_alarms_double": (
        "Where false alarms double",
        "flagged_normal",
        "False alarms reach twice those on clean images, or 10 % if that is more (the threshold is for 5 %).",
    ),
    "catches_halve": (
        "Where catches halve",
        "flagged_anomalous",
        "Half of the anomalies that are flagged on clean images are flagged.",
    ),
}
"""Properties of a curve: title, the measure that passes a limit, and the limit."""
NAMED = 3
"""Corruptions that a sentence names."""


@dataclass(frozen=True)
class Curve:
    """One corruption on one detector, mean over its trials, from no corruption to the highest severity.

    Attributes:
        title: of the detector.
        label: ``winner``, ``default``, ``reference`` or nothing.
        corruption: its name.
        severities: 0, then those that were measured.
        values: the physical strength of each.
        measured: by measure, the mean at each severity; NaN if it cannot be measured.
        rows: of corruptions.csv.
    """

    title: str
    label: str
    corruption: str
    severities: tuple[int, ...]
    values: tuple[float, ...]
    measured: dict[str, tuple[float, ...]]
    rows: pd.DataFrame

    @property
    def false_alarms_double(self) -> Tolerance | None:
        """Where false alarms reach twice the clean ones, or 10 % if that is more: the threshold is for 5 %."""
        alarms = self.measured["flagged_normal"]
        return tolerance(self.severities, self.values, alarms, 2 * max(alarms[0], FALSE_POSITIVE_RATE))

    @property
    def catches_halve(self) -> Tolerance | None:
        """Where half of the anomalies that are caught on clean images are caught; None if none was."""
        caught = self.measured["flagged_anomalous"]
        return tolerance(self.severities, self.values, caught, caught[0] / 2) if caught[0] > 0 else None

    def written(self, value: float) -> str:
        """Return a strength as people write it."""
        return CORRUPTIONS[self.corruption].written(value)


@section("corruptions", "Corruptions")
def build(data: StudyData) -> Blocks:
    found = curves(data)
    if not found:
        yield absent("This study changed no test images (its study file has no section corruptions).")
        return
    yield from sentences(data)
    yield _figure(found)
    for measure in TOLERANCES:
        yield tolerance_table(found, measure)
    yield measured_table(found)


def curves(data: StudyData) -> list[Curve]:
    """Return every corruption on every detector, the winner's first; corruptions of other packages are left out."""
    if data.corruptions is None:
        return []
    titles = _titles(data)
    found = []
    for key, own in data.corruptions.groupby(VICTIM, sort=False):
        victim = tuple(map(str, key))
        clean = own[own["corruption"] == CLEAN]
        for corruption, rows in own[own["corruption"] != CLEAN].groupby("corruption", sort=False):
            kind = CORRUPTIONS.get(str(corruption))
            if kind is None or clean.empty:
                continue
            both = pd.concat([clean, rows])
            by_severity = both.groupby("severity")
            severities = tuple(map(int, np.unique(both["severity"])))
            values = (kind.neutral, *(float(value) for value in rows.groupby("severity")["value"].mean()))
            measured = {name: tuple(map(float, by_severity[name].mean())) for name in MEASURES}
            label = str(own["label"].iloc[0])
            found.append(Curve(titles[victim], label, str(corruption), severities, values, measured, both))
    return sorted(found, key=lambda curve: "winner" not in curve.label)


def mean_score(data: StudyData, choice: Choice) -> float | None:
    """Return the mean AUROC of a choice over all corruptions, severities and trials; None if it was not measured."""
    if data.corruptions is None:
        return None
    rows = data.corruptions[data.corruptions["corruption"] != CLEAN]
    for name, value in zip(VICTIM, (choice.configuration, choice.aggregation, choice.error), strict=True):
        rows = rows[rows[name] == value]
    mean = float(rows["auroc"].mean())
    return None if np.isnan(mean) else mean


def sentences(data: StudyData) -> list[Paragraph]:
    """Return what the first detector, the winner if it was measured, bears least."""
    found = curves(data)
    own = [curve for curve in found if curve.title == found[0].title]
    parts = []
    for measure, what in (("false_alarms_double", "false alarms double at"), ("catches_halve", "catches halve at")):
        reached = [(bears, curve) for curve in own if (bears := getattr(curve, measure)) is not None]
        reached.sort(key=lambda pair: pair[0].severity)
        if reached:
            named = (
                f"{CORRUPTIONS[curve.corruption].title} {curve.written(bears.value)}"
                for bears, curve in reached[:NAMED]
            )
            parts.append(f"{what} {', '.join(named)}")
    if not own:
        return []
    clean = {name: own[0].measured[name][0] for name in MEASURES}
    shown = ", ".join(f"{MEASURES[name]} {share(clean[name])} %" for name in MEASURES if not np.isnan(clean[name]))
    reached_text = "; ".join(parts) or "no corruption that was measured doubles false alarms or halves catches"
    return [finding(f"Corruptions of the test images, {own[0].title}: {reached_text} (clean: {shown}).")]


def tolerance_table(found: Sequence[Curve], name: str) -> Table:
    """Return where each detector passes a limit of ``TOLERANCES``, one row a corruption and one column a detector."""
    title, measure, limit = TOLERANCES[name]
    titles = list(dict.fromkeys(curve.title for curve in found))
    by_name = {(curve.corruption, curve.title): curve for curve in found}
    rows: list[Row] = []
    for corruption in dict.fromkeys(curve.corruption for curve in found):
        row: Row = {words("corruption", "Corruption"): word(CORRUPTIONS[corruption].title)}
        for number, detector in enumerate(titles, 1):
            curve = by_name.get((corruption, detector))
            row[words(f"detector_{number}", detector)] = (
                Cell(NOTHING) if curve is None else _bears(curve, name, measure)
            )
        rows.append(row)
    return table(
        f"tolerance_{name}",
        title,
        rows,
        f"{limit} Linear between the severities that were measured, of the mean over trials; no interval (those of the "
        f"shares are in corruptions.csv). >: not reached at the highest severity; {NOTHING}: nothing to measure. "
        f"Threshold: calibrated on clean validation images. Detectors: {'; '.join(titles)}.",
    )


def _bears(curve: Curve, name: str, measure: str) -> Cell:
    """Return the cell of a tolerance."""
    bears: Tolerance | None = getattr(curve, name)
    if bears is not None:
        return Cell(curve.written(bears.value), bears.value)
    measured = curve.measured[measure]
    nothing = np.isnan(measured).any() or (measure == "flagged_anomalous" and not measured[0])
    return Cell(NOTHING if nothing else f"> {curve.written(curve.values[-1])}")


def measured_table(found: Sequence[Curve]) -> Table:
    """Return clean images and every corruption at its middle severity, for every detector."""
    rows: list[Row] = []
    means: list[intervals.Mean] = []
    for title in dict.fromkeys(curve.title for curve in found):
        own = [curve for curve in found if curve.title == title]
        rows.append(_measured_row(own[0], NONE, means))
        rows += [_measured_row(curve, curve.severities[(len(curve.severities) + 1) // 2], means) for curve in own]
    images = "their ends averaged over trials if there are too few for an interval over seeds"
    return table(
        "corruptions",
        "AUROC, false alarms and catches at the middle severity",
        rows,
        f"Mean over trials. {intervals.method_note(means)} Intervals of one trial: bootstrap over test images for the "
        f"AUROC, Wilson's for shares, {images}. FPR and TPR: shares of normal and anomalous test images above the "
        f"threshold for {100 * FALSE_POSITIVE_RATE:g} % false alarms that clean validation images gave. The other "
        "severities are in corruptions.csv.",
        collapsed=True,
    )


def _measured_row(curve: Curve, severity: int, means: list[intervals.Mean]) -> Row:
    """Return the row of a curve at one severity; appends its means."""
    rows = curve.rows[curve.rows["severity"] == severity]
    place = curve.severities.index(severity)
    clean = severity == NONE
    strata = list(rows[TASK].itertuples(index=False, name=None))
    cells = {}
    for name, title in MEASURES.items():
        values, low, high = (rows[f"{name}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
        mean = None if np.isnan(values).any() else intervals.auroc_interval(values, low, high, strata)
        means += [] if mean is None else [mean]
        cells[Column(name, f"{capital(title)} % [95 %]")] = estimated(mean)
    return {
        words("detector", "Detector"): word(curve.title),
        words("corruption", "Corruption"): word("none" if clean else CORRUPTIONS[curve.corruption].title),
        words("strength", "Strength"): word("" if clean else curve.written(curve.values[place])),
        **cells,
        Column("trials", "Trials (n)"): count(len(rows)),
        Column("normal", "Normal images (n)"): count(int(rows["n_normal"].sum())),
        Column("anomalous", "Anomalous images (n)"): count(int(rows["n_anomalous"].sum())),
    }


def _figure(found: Sequence[Curve]) -> Figure:
    """Return a heat map of each measure: a row a corruption, a column a detector, mean over the severities."""
    titles = list(dict.fromkeys(curve.title for curve in found))
    kinds = [CLEAN, *dict.fromkeys(curve.corruption for curve in found)]
    by_name = {(curve.corruption, curve.title): curve for curve in found}
    colours = {"auroc": "viridis", "flagged_normal": "magma_r", "flagged_anomalous": "viridis"}
    height = 1.6 + 0.28 * len(kinds) + 0.1 * max(map(len, titles)) / 2
    with drawing.drawing(4.2 + 1.3 * 3 * max(2, len(titles)) * 0.5, height, columns=3, sharey=True) as (figure, axes):
        for place, (measure, title) in zip(axes, MEASURES.items(), strict=True):
            grid = np.full((len(kinds), len(titles)), np.nan)
            for column, name in enumerate(titles):
                first = next(curve for curve in found if curve.title == name)
                grid[0, column] = first.measured[measure][0]
                for line, kind in enumerate(kinds[1:], 1):
                    if (curve := by_name.get((kind, name))) is not None:
                        grid[line, column] = np.mean(curve.measured[measure][1:])
            sns.heatmap(
                100 * grid, ax=place, annot=True, fmt=".0f", cmap=colours[measure], vmin=0, vmax=100, cbar=False,
                annot_kws={"fontsize": 7}, xticklabels=[str(i + 1) for i in range(len(titles))],
                yticklabels=[CLEAN, *(CORRUPTIONS[kind].title for kind in kinds[1:])],
            )  # fmt: skip
            for number in place.texts:
                # On a light cell it stays dark, on a dark page too.
                number.set_color("#ffffff" if number.get_color() == "w" else "#1a1a1a")
            place.set_title(f"{capital(title)}, %")
            place.tick_params(axis="y", rotation=0)
        key = "; ".join(f"{number}: {name}" for number, name in enumerate(titles, 1))
        worst = min(
            (curve for curve in found if not np.isnan(curve.measured["auroc"]).any()),
            key=lambda curve: float(np.mean(curve.measured["auroc"][1:])),
            default=None,
        )
        lowest = (
            f"; the lowest AUROC is that of {worst.title} under {CORRUPTIONS[worst.corruption].title} with "
            f"{share(float(np.mean(worst.measured['auroc'][1:])))} %"
            if worst
            else ""
        )
        return drawing.finished(
            figure,
            name="corruptions",
            alt=f"Heat maps of AUROC, false alarms and catches by corruption and detector{lowest}.",
            caption=f"Mean over the severities and trials, per cent; no interval. Columns: {key}.",
        )


def _titles(data: StudyData) -> dict[tuple[str, ...], str]:
    """Return a title for each detector under its reading; if two are alike, they have the configuration too."""
    assert data.corruptions is not None
    firsts = data.corruptions.drop_duplicates(VICTIM)
    victims = [tuple(map(str, key)) for key in firsts[VICTIM].itertuples(index=False, name=None)]
    titles = [
        title_of(str(row["detector"]))
        if row["label"] == "reference"
        else configuration_title(data, row["label"], row["configuration"])
        for _, row in firsts.iterrows()
    ]
    return {
        victim: title if titles.count(title) == 1 else f"{title} ({', '.join(victim)})"
        for victim, title in zip(victims, titles, strict=True)
    }
