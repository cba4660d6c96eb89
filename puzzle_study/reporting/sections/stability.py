"""Whether two trainings that differ by their seed alone order the images alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from puzzle_study.reporting import scores
from puzzle_study.reporting.blocks import Column, Section, Table, absent, count, percent, section, word
from puzzle_study.reporting.study_data import TASK
from puzzle_study.statistics import intervals

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from puzzle_study.reporting.study_data import Choice, StudyData

FEWEST = 2
"""Images that have an order."""


def build(data: StudyData, figures: Path) -> Section:
    """Return the section."""
    title = "Stability over seeds"
    choice = data.described
    table = rank_table(data, choice) if choice else None
    text = "This study has one seed, or no error matrices of several, or no test images: "
    text += "how seeds order the images cannot be said."
    return section("stability", title, [table or absent(text)])


def rank_table(data: StudyData, choice: Choice) -> Table | None:
    """Return the agreement of seeds on the order of the test images, by class."""
    rows = []
    for key, trials in data.of(choice).groupby(TASK, sort=False):
        found = [scores.test_scores(data, trial, choice) for trial in trials["trial"]]
        scored = [one for one in found if one is not None]
        alike = [one for one in scored if np.array_equal(one.names, scored[0].names)]
        if len(alike) < 2:
            continue
        score_SN, labels = np.stack([one.test for one in alike]), alike[0].labels
        if len(labels) < FEWEST:
            continue
        whole = intervals.rank_stability(score_SN)
        normal, anomalous = (_correlation(score_SN[:, labels == one]) for one in (False, True))
        rows.append(
            (
                word(key[1]),
                percent(whole.spearman),
                percent(whole.spearman_low),
                percent(normal),
                percent(anomalous),
                percent(whole.overlap),
                count(whole.seeds),
                count(whole.images),
            )
        )
    if not rows:
        return None
    return Table(
        "rank_stability",
        f"Agreement of seeds on the order of the test images: {data.label(choice)}, {choice.aggregation}",
        (
            Column("class", "Normal class", numeric=False),
            Column("spearman", "Spearman’s ρ, all images %"),
            Column("spearman_low", "lowest pair %"),
            Column("spearman_normal", "ρ, normal %"),
            Column("spearman_anomalous", "ρ, anomalous %"),
            Column("overlap", "Common in the top tenth %"),
            Column("seeds", "Seeds (n)"),
            Column("images", "Test images (n)"),
        ),
        tuple(rows),
        "Mean over all pairs of seeds of Spearman’s rank correlation of the anomaly scores (100 %: the same order), "
        "and the share of the most anomalous tenth of the images that two seeds have in common (chance: 10 %). No "
        "interval: pairs share seeds.",
    )


def _correlation(score_SN: NDArray[np.float64]) -> float | None:
    return intervals.rank_stability(score_SN).spearman if score_SN.shape[1] >= FEWEST else None
