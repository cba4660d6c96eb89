"""How well the selection that needs no anomalous labels agrees with the test AUROC."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns

from puzzle_study.config.types import parted
from puzzle_study.criteria.registry import CRITERIA
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
from puzzle_study.reporting.cells import count, estimated, number, percent, plural, share, word
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.statistics.intervals import TAIL, Estimate
from puzzle_study.trials.worth import SHARES, criterion, gain

SCOPES = {
    "everything": "Detector, settings and aggregation",
    "detector": "Detector, by default settings",
    "settings": "Settings, within each detector",
    "aggregation": "Aggregation, within each configuration",
}
BESIDE = ("default", "random", "median", "oracle")
AGREE = 0.5
"""Mean rank correlation below which criteria are said to disagree."""


@section("selection", "Selection against test AUROC")
def build(data: StudyData) -> Blocks:
    yield closed(data)
    yield _gap_table(data)
    yield _criteria_agreement(data)
    yield _choices_table(data)
    score = "goodness" if data.criterion.compares else "selection_mean"
    rows = data.complete.dropna(subset=[score, "auroc_mean"])
    if rows.empty and (lacks := data.lacking()):
        yield absent(f"There is no test AUROC to compare the selection with: {lacks}.")
    elif len(rows["configuration"].unique()) < 3:
        yield absent("Fewer than three configurations are complete: no agreement to show.")
    else:
        # Turned so that higher is better.
        rows = rows.assign(score=rows[score] * gain(criterion(data.selection), 1.0))
        yield hindsight(data)
        yield _agreement(rows)
        yield _scatter(data, rows)


def _gaps(data: StudyData, *, measured: bool) -> pd.DataFrame:
    """Return the rows of selection.csv that have a test AUROC, or all if none has one."""
    if data.gaps is None:
        return pd.DataFrame(columns=["scope", "criterion", "selected", "auroc"])
    with_auroc = data.gaps.dropna(subset=["auroc"])
    return with_auroc if measured or len(with_auroc) else data.gaps


def closed(data: StudyData) -> Paragraph | None:
    """Return how much of the way from the default to the best in hindsight the selection has gone."""
    gaps = _gaps(data, measured=True)
    row = gaps[(gaps["scope"] == "everything") & gaps["selected"].astype(bool)]
    if row.empty or data.criterion.uses_labels or not data.ranks_by_selection:
        return None
    auroc, default, oracle, part = (float(row.iloc[0][name]) for name in ("auroc", "default", "oracle", "share"))
    went = (
        f"it closes {share(part, digits=0)} % of the gap between them"
        if np.isfinite(part)
        else "there is hardly a gap between them"
    )
    each = "with a winner for each task " if data.per_task else ""
    return Paragraph(
        f"The selection by {data.selection_title} reaches a test AUROC of {share(auroc)} % {each}(default "
        f"{share(default)} %, best in hindsight {share(oracle)} %): {went} (n = "
        f"{plural(int(row.iloc[0]['tasks']), 'task')})."
    )


def _gap_table(data: StudyData) -> Table | None:
    gaps = _gaps(data, measured=True)
    if gaps.empty:
        return None
    rows: list[Row] = [
        {
            words("scope", "What is chosen"): word(SCOPES[row["scope"]]),
            words("criterion", "Criterion"): word(_title(row), strong=bool(row["selected"])),
            Column("auroc", "Test AUROC % [95 %]"): estimated(_estimate(row, "auroc"), strong=bool(row["selected"])),
            Column("lost", "Lost to the oracle, points [95 %]"): estimated(_estimate(row, "lost"), digits=2),
            Column("share", "Share of default → oracle % [95 %]"): estimated(_estimate(row, "share"), digits=0),
            Column("correlation", "Rank correlation"): number(row["correlation"], 2),
            **{Column(name, f"{name.capitalize()} %"): percent(row[name]) for name in BESIDE},
            Column("candidates", "Candidates (n)"): count(row["candidates"]),
            Column("tasks", "Tasks (n)"): count(row["tasks"]),
        }
        for _, row in gaps.iterrows()
    ]
    return table(
        "selection_gap",
        "What each criterion would have chosen",
        rows,
        "Each criterion chooses among the same candidates, "
        + ("for each task. " if data.per_task else "one for all tasks. ")
        + "Default: what is used if nobody chooses. Random and median: of the candidates. Oracle: the best by test "
        "labels. Rank correlation: of the criterion with the test AUROC over candidates. The criterion of this study "
        "is bold; transductive ones look at test images without labels. Intervals: bootstrap over tasks (too few: "
        "none); selection.csv has the numbers.",
        collapsed=len(rows) > 12,
    )


def _criteria_agreement(data: StudyData) -> Paragraph | None:
    """Return how far the criteria agree if there are no labels that say which is right."""
    gaps = _gaps(data, measured=False)
    rows = gaps[(gaps["scope"] == "everything") & gaps["auroc"].isna()]
    rows = rows[~rows["uses_labels"].astype(bool)] if len(rows) else rows
    if len(rows) < 2:
        return None
    own = rows[rows["selected"].astype(bool)]["agreement"].astype(float)
    mean = float((own if len(own) else rows["agreement"].astype(float)).mean())
    different = rows["chosen"].nunique()
    text = f"{len(rows)} criteria that use no labels make {different} different choices"
    if np.isfinite(mean):
        text += (
            f"; the rank correlation of {data.selection_title} with the others over candidates is {_signed(mean)} on "
            "average"
        )
    if different == 1 or mean >= AGREE:
        return Paragraph(f"{text}. They agree, which makes the choice more trustworthy, though they may all be wrong.")
    return finding(
        f"{text}. The criteria do not agree, and without labels nothing says which is right: label a few anomalies, or "
        "say what you expect (`expect`)."
    )


def _choices_table(data: StudyData) -> Table | None:
    gaps = _gaps(data, measured=False)
    rows = gaps[(gaps["scope"] == "everything") & gaps["auroc"].isna()]
    if rows.empty:
        return None
    return table(
        "selection_choices",
        "What each criterion chooses",
        [
            {
                words("criterion", "Criterion"): word(_title(row), strong=bool(row["selected"])),
                words("chosen", "Choice"): word(_choices(data, str(row["chosen"]))),
                Column("agreement", "Rank correlation with the others"): number(row["agreement"], 2),
            }
            for _, row in rows.iterrows()
        ],
        "Configuration, aggregation and error norm; several if each task has its own. No test AUROC can be measured "
        "here, so none of them can be checked.",
    )


def _choices(data: StudyData, chosen: str) -> str:
    """Return choices with the names that people use for their configurations."""
    parts = [choice.partition(" ") for choice in chosen.split(";")]
    return ", ".join(f"{data.called(name)} {reading}".strip() for name, _, reading in parts)


def _title(row: pd.Series[Any]) -> str:
    kind = CRITERIA[row["criterion"]]
    return kind.title + (" (transductive)" if kind.transductive else "")


def _estimate(row: pd.Series[Any], name: str) -> Estimate:
    return Estimate(*(float(row[f"{name}{end}"]) for end in ("", "_low", "_high")))


def hindsight(data: StudyData) -> Paragraph | None:
    """Return how far the winner is from the best row by test AUROC, which no selection could know."""
    winner, best = data.winner, data.best_in_hindsight
    if winner is None or best is None or not data.searched:
        return None
    if data.objectives[0] == "auroc":
        return finding(
            "The winner was selected by the test AUROC itself (oracle), so its AUROC is the highest by "
            "construction and optimistic."
        )
    reached, possible = data.mean(winner), data.mean(best)
    if reached is None or possible is None:
        return None
    if best == winner:
        return Paragraph(
            f"The selection by {data.selected_by} found the row that has the highest test AUROC in hindsight."
        )
    return Paragraph(
        f"In hindsight (oracle) {data.titled(best, 'configuration ')} with {best.aggregation} has the highest test "
        f"AUROC, {share(possible.value)} %: the selection by {data.selected_by} gave away "
        f"{share(possible.value - reached.value)} points (n = {plural(reached.n, 'trial')} each)."
    )


def _agreement(rows: pd.DataFrame) -> Paragraph:
    """Return the rank correlation over configurations, resampled by configuration."""
    best = rows.sort_values("score", ascending=False).drop_duplicates("configuration")
    pairs = best[["score", "auroc_mean"]].to_numpy(dtype=float)
    if len(pairs) < 4:
        return Paragraph(f"With {len(pairs)} configurations a correlation of the two would say nothing.")
    correlation = _spearman(pairs)
    generator = np.random.default_rng(0)
    drawn = [_spearman(pairs[generator.integers(len(pairs), size=len(pairs))]) for _ in range(500)]
    low, high = np.nanquantile(drawn, [TAIL, 1 - TAIL])
    return Paragraph(
        f"Spearman's rank correlation of selection score and test AUROC over configurations is {_signed(correlation)} "
        f"[{_signed(low)}, {_signed(high)}] (n = {len(pairs)} configurations, each at its best row by selection; "
        "bootstrap over configurations, percentile, 95 %)."
    )


def _scatter(data: StudyData, rows: pd.DataFrame) -> Figure:
    percent_sign = "" if data.criterion.compares or criterion(data.selection) not in SHARES else " %"
    shown = rows[["score", "auroc_mean"]].astype(float).set_axis(["selection", "auroc"], axis=1)
    shown = shown * [100 if percent_sign else 1, 100]
    shown = shown.assign(aggregation=[parted(name)[0] for name in rows["aggregation"]])
    with drawing.drawing(5.6, 4.0) as (figure, (axes,)):
        sns.scatterplot(shown, x="selection", y="auroc", ax=axes, **drawing.BY_AGGREGATION)
        points = zip(rows["configuration"], rows["aggregation"], shown["selection"], shown["auroc"], strict=True)
        told = [
            f"{data.called(str(name))}, {way}: selection {selection:.3g}{percent_sign}, test AUROC {auroc:.1f} %"
            for name, way, selection, auroc in points
        ]
        drawing.tell(axes.collections[0], told)
        marked = shown[rows["label"].str.contains("winner")]
        circle: dict[str, Any] = {"s": 160, "facecolors": "none", "edgecolors": "black", "label": "winner"}
        axes.scatter(marked["selection"], marked["auroc"], **circle)
        axes.legend(title=None)
        axes.set(xlabel=f"selection score{',' * bool(percent_sign)}{percent_sign}", ylabel="test AUROC, %")
        return drawing.finished(
            figure,
            name="selection",
            alt=f"Scatter of {len(shown)} points, one for each configuration and aggregation: selection score from "
            f"{shown['selection'].min():.3g} to {shown['selection'].max():.3g}{percent_sign} against test AUROC from "
            f"{shown['auroc'].min():.1f} to {shown['auroc'].max():.1f} %; the winner is circled.",
            caption=f"Selection score ({data.selection_title}) against test AUROC, one point for each complete "
            f"configuration and aggregation (n = {len(shown)}); means over classes and seeds, no intervals drawn.",
        )


def _spearman(pairs: np.ndarray) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(pairs, axis=0)
    if np.ptp(ranks[:, 0]) == 0 or np.ptp(ranks[:, 1]) == 0:
        return float("nan")
    return float(np.atleast_2d(np.corrcoef(ranks.T))[0, 1])


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
