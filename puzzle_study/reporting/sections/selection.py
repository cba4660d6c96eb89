"""How well the selection that needs no anomalous labels agrees with the test AUROC."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import Blocks, Figure, Paragraph, absent, finding, section
from puzzle_study.reporting.cells import share
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.statistics.intervals import TAIL


@section("selection", "Selection against test AUROC")
def build(data: StudyData) -> Blocks:
    rows = data.complete.dropna(subset=["selection_mean", "auroc_mean"])
    if rows.empty and (lacks := data.lacking()):
        yield absent(f"There is no test AUROC to compare the selection with: {lacks}.")
    elif len(rows["configuration"].unique()) < 3:
        yield absent("Fewer than three configurations are complete: no agreement to show.")
    else:
        yield hindsight(data)
        yield _agreement(rows)
        yield _scatter(data, rows)


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
        f"In hindsight (oracle) configuration {best.configuration} with {best.aggregation} has the highest test AUROC, "
        f"{share(possible.value)} %: the selection by {data.selected_by} gave away "
        f"{share(possible.value - reached.value)} points (n = {reached.n} trials each)."
    )


def _agreement(rows: pd.DataFrame) -> Paragraph:
    """Return the rank correlation over configurations, resampled by configuration."""
    best = rows.sort_values("selection_mean", ascending=False).drop_duplicates("configuration")
    pairs = best[["selection_mean", "auroc_mean"]].to_numpy(dtype=float)
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
    shown = 100 * rows[["selection_mean", "auroc_mean"]].astype(float).set_axis(["selection", "auroc"], axis=1)
    shown = shown.assign(aggregation=rows["aggregation"])
    with drawing.drawing(5.6, 4.0) as (figure, (axes,)):
        sns.scatterplot(shown, x="selection", y="auroc", ax=axes, **drawing.BY_AGGREGATION)
        marked = shown[rows["label"].str.contains("winner")]
        circle: dict[str, Any] = {"s": 160, "facecolors": "none", "edgecolors": "black", "label": "winner"}
        axes.scatter(marked["selection"], marked["auroc"], **circle)
        axes.legend(title=None)
        axes.set(xlabel="selection score, %", ylabel="test AUROC, %")
        return drawing.finished(
            figure,
            name="selection",
            alt=f"Scatter of {len(shown)} points, one for each configuration and aggregation: selection score from "
            f"{shown['selection'].min():.1f} to {shown['selection'].max():.1f} % against test AUROC from "
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
