"""Distributions of the scores of normal images, pseudo-anomalies and anomalies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.patches import Patch
from numpy.typing import NDArray

from puzzle_study.reporting import drawing
from puzzle_study.reporting.blocks import Blocks, Figure, absent, section
from puzzle_study.reporting.cells import share
from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.scores import TrialScores, test_scores
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.values import TASK, TRIAL_KEY

MOST = 15
COLOURS = {"normal": drawing.PALETTE[0], "pseudo-anomalous": drawing.PALETTE[2], "anomalous": drawing.PALETTE[3]}


@section("scores", "Scores")
def build(data: StudyData) -> Blocks:
    choice = data.described
    found = _scored(data, choice) if choice else []
    if choice is None or not found:
        yield absent("This study kept no error matrices (errors/), so there are no scores to show.")
    else:
        yield _figure(data, choice, found)


def _scored(data: StudyData, choice: Choice) -> list[tuple[str, float, TrialScores]]:
    """Return class, AUROC and scores of the first seed of each task."""
    found = []
    aurocs = data.metric(choice)
    for _, trials in data.of(choice).groupby(TASK, sort=False):
        first = trials.iloc[0]
        scored = test_scores(data, first["trial"], choice)
        if scored is not None:
            auroc = aurocs.get(tuple(first[TRIAL_KEY]), np.nan)
            found.append((str(first["normal_class"]), float(auroc), scored))
    return found


def _figure(data: StudyData, choice: Choice, found: list[tuple[str, float, TrialScores]]) -> Figure:
    shown = found[:MOST]
    height = 2.2 if len(shown) > 1 else 3.1
    with drawing.panels(len(shown), most=5, width=2.3, height=height, above=0.5) as (figure, places):
        for place, (name, auroc, scored) in zip(places, shown, strict=True):
            long = _long(scored)
            # A few extreme anomalies would squeeze everything else into one bar.
            low, high = np.quantile(long["score"], [0, 0.99])
            sns.histplot(
                long,
                x="score",
                hue="kind",
                bins=24,
                binrange=(low, max(high, low + 1e-9)),
                stat="density",
                common_norm=False,
                element="step",
                alpha=0.25,
                linewidth=1,
                palette=COLOURS,
                hue_order=list(COLOURS),
                legend=False,
                ax=place,
            )
            value = "" if np.isnan(auroc) else f", {share(auroc)} %"
            place.set(title=f"{name}{value}", xlabel="", ylabel="", yticks=[])
        handles = [Patch(facecolor=colour, alpha=0.5, edgecolor=colour) for colour in COLOURS.values()]
        figure.legend(handles, list(COLOURS), loc="outside upper center", ncols=3)
        figure.supxlabel("anomaly score (1: a typical normal image)", fontsize=9)
        first = shown[0][2]
        seed = data.of(choice)["seed"].iloc[0]
        more = f" The first {MOST} of {len(found)} classes." if len(found) > MOST else ""
        middle = _medians([one for _, _, one in shown])
        without = any(one.labels.all() for _, _, one in shown)
        held_out = " There are no normal test images; validation images are drawn in their place." if without else ""
        return drawing.finished(
            figure,
            name="scores",
            alt=f"Histograms of anomaly scores, one panel for each of {len(shown)} normal classes, for normal, "
            f"pseudo-anomalous and anomalous images; {middle}.",
            caption=f"Scores of {data.label(choice)} ({choice.aggregation}, error norm {choice.error}), seed {seed}; "
            "each panel's title is the normal class and the AUROC of that trial. Each kind has area 1; n = "
            f"{len(first.test)} test images and {len(first.pseudo)} pseudo-anomalies in the first panel. The highest 1 "
            f"% are cut off.{held_out}{more}",
        )


def _by_kind(scored: TrialScores) -> dict[str, NDArray[np.float64]]:
    """Return the scores of each kind; validation images replace missing normal test images."""
    normal = scored.test[~scored.labels]
    return {
        "normal": normal if len(normal) else scored.validation,
        "pseudo-anomalous": scored.pseudo,
        "anomalous": scored.test[scored.labels],
    }


def _long(scored: TrialScores) -> pd.DataFrame:
    rows = [(score, kind) for kind, scores in _by_kind(scored).items() for score in scores]
    return pd.DataFrame(rows, columns=["score", "kind"])


def _medians(shown: list[TrialScores]) -> str:
    """Return the range of the medians of each kind."""
    parts = []
    for kind in ("normal", "anomalous"):
        medians = [float(np.median(own)) for one in shown if len(own := _by_kind(one)[kind])]
        if medians:
            parts.append(f"the medians of {kind} images are between {min(medians):.2f} and {max(medians):.2f}")
    return ", ".join(parts)
