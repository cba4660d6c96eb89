"""What attacks made against one score do to another."""

from __future__ import annotations

from typing import Any

import pandas as pd

from puzzle_study.reporting.blocks import Blocks, Column, Row, Table, section, table, words
from puzzle_study.reporting.cells import count, estimated, percent, significant, word
from puzzle_study.reporting.sections.robustness import VICTIM, configuration_title
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.reporting.values import mean_auroc
from puzzle_study.statistics import intervals

AGGREGATIONS = ("attacked_aggregation", "scoring_aggregation")


@section("transfer", "Whose score an attack breaks")
def build(data: StudyData) -> Blocks:
    yield _matrix(data, data.aggregation_matrix)
    yield _transfer(data, data.transfer)


def _matrix(data: StudyData, cells: pd.DataFrame | None) -> Table | None:
    rows = []
    for first, group in _groups(cells, ["configuration", "label", "error", *AGGREGATIONS]):
        attacked, scoring = first[[*AGGREGATIONS]]
        told = {
            words("error", "Error norm"): word(first["error"]),
            words("attacked", "Attacked"): word(attacked),
            words("scoring", "Scored by"): word(scoring),
        }
        rows.append((told, attacked == scoring, group))
    return _table(data, "aggregation_matrix", "Attacked and scoring aggregation", rows)


def _transfer(data: StudyData, pairs: pd.DataFrame | None) -> Table | None:
    rows = []
    for first, group in _groups(pairs, ["source_label", *(f"source_{name}" for name in VICTIM), "label", *VICTIM]):
        source = configuration_title(data, first["source_label"], first["source_configuration"])
        told = {
            words("source", "Made against"): word(source),
            words("source_reading", "Reading attacked"): word(
                f"{first['source_aggregation']}, {first['source_error']}"
            ),
            words("reading", "Reading that scores"): word(f"{first['aggregation']}, {first['error']}"),
        }
        rows.append((told, all(first[f"source_{name}"] == first[name] for name in VICTIM), group))
    return _table(data, "transfer", "Transfer between configurations", rows)


def _groups(rows: pd.DataFrame | None, keys: list[str]) -> list[tuple[pd.Series[Any], pd.DataFrame]]:
    """Return the rows of each pair with an AUROC, after its first row."""
    if rows is None:
        return []
    groups = rows.dropna(subset=["auroc"]).groupby(keys, sort=False, dropna=False)
    return [(group.iloc[0], group) for _, group in groups]


def _table(data: StudyData, name: str, title: str, pairs: list[tuple[Row, bool, pd.DataFrame]]) -> Table | None:
    """Return every pair's mean over trials, with adaptive ones marked; None if no AUROC could be measured."""
    rows, means = [], []
    for told, adaptive, group in pairs:
        first, mean = group.iloc[0], mean_auroc(group)
        means.append(mean)
        judge = configuration_title(data, first["label"], first["configuration"])
        rows.append(
            {
                **told,
                words("configuration", "Configuration that scores"): word(judge),
                words("adaptive", "Adaptive"): word("yes" if adaptive else "no"),
                Column("auroc", "AUROC % [95 %]"): estimated(mean, strong=adaptive),
                Column("clean", "Clean %"): percent(float(group["auroc_clean"].mean())),
                Column("trials", "Trials (n)"): count(mean.n),
                Column("images", "Attacked images (n)"): count(int(group["images"].sum())),
            }
        )
    if not rows:
        return None
    first = pairs[0][2].iloc[0]
    return table(
        name,
        title,
        rows,
        f"{first['attack']}, {first['method']}, ε = {significant(float(first['epsilon']))}; mean over trials. "
        f"{intervals.method_note(means)} Clean: the scoring configuration without an attack. Adaptive: the attack was "
        "made against the reported score; a higher AUROC in the other rows shows that the attacker did not know the "
        "score, not robustness.",
    )
