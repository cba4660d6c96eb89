"""Whether two trainings that differ only in their seed rank the images alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from puzzle_study.reporting.blocks import Blocks, Column, Row, Table, absent, section, table, words
from puzzle_study.reporting.cells import count, percent, word
from puzzle_study.reporting.choice import Choice
from puzzle_study.reporting.scores import test_scores
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.values import TASK
from puzzle_study.statistics import intervals

FEWEST = 2
"""Fewest images for a ranking."""


@section("stability", "Stability over seeds")
def build(data: StudyData) -> Blocks:
    choice = data.described
    yield (rank_table(data, choice) if choice else None) or absent(
        "This study has one seed, or no error matrices of several, or no test images, so it cannot show how far seeds "
        "agree on the order of the images."
    )


def rank_table(data: StudyData, choice: Choice) -> Table | None:
    """Return the agreement of seeds on the order of the test images, by class."""
    rows: list[Row] = []
    for key, trials in data.of(choice).groupby(TASK, sort=False):
        found = [test_scores(data, trial, choice) for trial in trials["trial"]]
        scored = [one for one in found if one is not None]
        alike = [one for one in scored if np.array_equal(one.names, scored[0].names)]
        if len(alike) < 2 or len(alike[0].labels) < FEWEST:
            continue
        score_SN, labels = np.stack([one.test for one in alike]), alike[0].labels
        whole = intervals.rank_stability(score_SN)
        rows.append(
            {
                words("class", "Normal class"): word(key[1]),
                Column("spearman", "Spearman’s ρ, all images %"): percent(whole.spearman),
                Column("spearman_low", "lowest pair %"): percent(whole.spearman_low),
                Column("spearman_normal", "ρ, normal %"): percent(_correlation(score_SN[:, ~labels])),
                Column("spearman_anomalous", "ρ, anomalous %"): percent(_correlation(score_SN[:, labels])),
                Column("overlap", "Shared in the top tenth %"): percent(whole.overlap),
                Column("seeds", "Seeds (n)"): count(whole.seeds),
                Column("images", "Test images (n)"): count(whole.images),
            }
        )
    if not rows:
        return None
    return table(
        "rank_stability",
        f"Agreement of seeds on the order of the test images: {data.label(choice)}, {choice.aggregation}",
        rows,
        "Mean over all pairs of seeds of Spearman’s rank correlation of the anomaly scores (100 %: the same order), "
        "and the share of the most anomalous tenth of the images that two seeds share (chance: 10 %). No "
        "interval: pairs share seeds.",
    )


def _correlation(score_SN: NDArray[np.float64]) -> float | None:
    return intervals.rank_stability(score_SN).spearman if score_SN.shape[1] >= FEWEST else None
