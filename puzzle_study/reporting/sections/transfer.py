"""Whose score an attack breaks: images made against one score, under another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from puzzle_study.reporting.blocks import Cell, Column, Table, count, percent, section, significant, word
from puzzle_study.reporting.sections.robustness import VICTIM, configuration_title
from puzzle_study.statistics import intervals

if TYPE_CHECKING:
    from pathlib import Path

    from puzzle_study.reporting.blocks import Section
    from puzzle_study.reporting.study_data import StudyData

AGGREGATIONS = ("attacked_aggregation", "scoring_aggregation")


def build(data: StudyData, figures: Path) -> Section:
    """Return the section, empty if the study asked for neither table or could measure no AUROC."""
    tables = [_matrix(data.aggregation_matrix, data), _transfer(data.transfer, data)]
    return section("transfer", "Whose score an attack breaks", tables)


def _matrix(cells: pd.DataFrame | None, data: StudyData) -> Table | None:
    if cells is None:
        return None
    return _table(
        cells,
        ["configuration", "label", "error", *AGGREGATIONS],
        columns=(
            Column("error", "Error norm", numeric=False),
            Column("attacked", "Attacked", numeric=False),
            Column("scoring", "Scored by", numeric=False),
        ),
        described=lambda row: (
            word(row["error"]),
            word(row["attacked_aggregation"]),
            word(row["scoring_aggregation"]),
        ),
        adaptive=lambda row: row["attacked_aggregation"] == row["scoring_aggregation"],
        name="aggregation_matrix",
        title="Attacked and scoring aggregation",
        data=data,
    )


def _transfer(pairs: pd.DataFrame | None, data: StudyData) -> Table | None:
    if pairs is None:
        return None
    return _table(
        pairs,
        ["source_label", *(f"source_{name}" for name in VICTIM), "label", *VICTIM],
        columns=(
            Column("source", "Made against", numeric=False),
            Column("source_reading", "Reading attacked", numeric=False),
            Column("reading", "Reading that scores", numeric=False),
        ),
        described=lambda row: (
            word(configuration_title(data, row["source_label"], row["source_configuration"])),
            word(f"{row['source_aggregation']}, {row['source_error']}"),
            word(f"{row['aggregation']}, {row['error']}"),
        ),
        adaptive=lambda row: all(row[f"source_{name}"] == row[name] for name in VICTIM),
        name="transfer",
        title="Transfer between configurations",
        data=data,
    )


def _table(
    rows: pd.DataFrame,
    keys: list[str],
    *,
    columns: Sequence[Column],
    described: Callable[[pd.Series[str]], tuple[Cell, ...]],
    adaptive: Callable[[pd.Series[str]], bool],
    name: str,
    title: str,
    data: StudyData,
) -> Table | None:
    """Return the mean over trials of every pair, the adaptive ones marked; None if no AUROC could be measured."""
    rows = rows.dropna(subset=["auroc"])
    if rows.empty:
        return None
    rows = rows.merge(data.trials[["trial", "repeat"]].drop_duplicates("trial"), on="trial", how="left")
    found, methods = [], []
    for _, group in rows.groupby(keys, sort=False, dropna=False):
        first = group.iloc[0]
        strata = list(group[["dataset", "normal_class", "repeat"]].itertuples(index=False, name=None))
        values = group["auroc"].to_numpy()
        mean = intervals.with_image_interval(
            intervals.mean_interval(values, strata, bounds=(0, 1)),
            *(values, group["auroc_low"].to_numpy(), group["auroc_high"].to_numpy(), strata),
        )
        methods.append(mean.method)
        found.append(
            (
                *described(first),
                word(configuration_title(data, first["label"], first["configuration"])),
                word("yes" if adaptive(first) else "no"),
                percent(mean.value, mean.low, mean.high, strong=adaptive(first)),
                percent(float(group["auroc_clean"].mean())),
                count(mean.n),
                count(int(group["images"].sum())),
            )
        )
    first = rows.iloc[0]
    return Table(
        name,
        title,
        (
            *columns,
            Column("configuration", "Configuration that scores", numeric=False),
            Column("adaptive", "Adaptive", numeric=False),
            Column("auroc", "AUROC % [95 %]"),
            Column("clean", "Clean %"),
            Column("trials", "Trials (n)"),
            Column("images", "Attacked images (n)"),
        ),
        tuple(found),
        f"{first['attack']}, {first['method']}, ε = {significant(float(first['epsilon']))}; mean over trials. "
        f"{intervals.method_note(methods)} Clean: the score of the one that scores, without an attack. Adaptive: the "
        f"attack saw the very score that is reported; a higher AUROC in the other rows is the attacker's ignorance and "
        f"no robustness.",
    )
