"""Ablations of the method, if a study varied it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.reporting import paper_values
from puzzle_study.reporting.blocks import Cell, Column, Section, Table, absent, count, percent, section, word
from puzzle_study.reporting.study_data import AGGREGATIONS, Choice
from puzzle_study.statistics.intervals import method_note

if TYPE_CHECKING:
    from pathlib import Path

    from puzzle_study.reporting.study_data import StudyData


def build(data: StudyData, figures: Path) -> Section:
    """Return the section on the variants of a detector."""
    title = "Ablations"
    axis = variant_axis(data)
    if axis is None or not levels(data, axis):
        return section("ablations", title, [absent("This study did not vary the method (setting variant).")])
    return section("ablations", title, [_variant_table(data, axis)])


def variant_axis(data: StudyData) -> str | None:
    """Return the searched setting that names a variant, or None."""
    return next((name for name in data.axes if name.rpartition(".")[2] == "variant"), None)


def levels(data: StudyData, axis: str) -> list[tuple[Any, str]]:
    """Return each value of an axis with its configuration of the best rank (by selection, not by test labels)."""
    rows = data.configurations.dropna(subset=["rank"]).sort_values("rank")
    found: dict[Any, str] = {}
    for configuration in rows["configuration"].unique():
        own = data.trials[data.trials["configuration"] == configuration]
        value = own[axis].iloc[0] if len(own) else None
        if value is not None and not pd.isna(value):
            found.setdefault(value, str(configuration))
    if axis == variant_axis(data):
        own = rows[rows["configuration"].isin(found.values())]
        order = list(DETECTORS[str(own["detector"].iloc[0])].Settings.VARIANTS)
        return sorted(found.items(), key=lambda item: order.index(item[0]))
    return sorted(found.items())


def choice_of(data: StudyData, configuration: str, aggregation: str) -> Choice:
    """Return a configuration under an aggregation and the winner's error norm."""
    return data.read_by(configuration, aggregation, data.winner.error if data.winner else "l2")


def mean_cells(data: StudyData, configuration: str) -> tuple[list[Cell], int, set[str]]:
    """Return a cell for each aggregation with the mean AUROC, the number of trials, and how the intervals were had."""
    cells, n, methods = [], 0, set()
    for way in AGGREGATIONS:
        mean = data.mean(choice_of(data, configuration, way))
        cells.append(percent(mean.value, mean.low, mean.high) if mean else Cell(data.lacking() or "–"))
        if mean:
            n = mean.n
            methods.add(mean.method)
    return cells, n, methods


def _variant_table(data: StudyData, axis: str) -> Table:
    found: set[str] = set()
    rows = []
    printed: dict[str, dict[str, paper_values.PaperValues | None]] = {
        str(variant): {
            way: paper_values.auroc(data.dataset, data.conditions(choice_of(data, configuration, way)), aggregation=way)
            for way in AGGREGATIONS
        }
        for variant, configuration in levels(data, axis)
    }
    shown = [way for way in AGGREGATIONS if any(values[way] for values in printed.values())]
    missing = (
        "" if shown or data.winner is None else paper_values.missing_auroc(data.dataset, data.conditions(data.winner))
    )
    chosen = data.described
    marked = " (here at a fraction of the budget)" if chosen and data.budget(chosen) else ""
    for variant, configuration in levels(data, axis):
        cells, n, methods = mean_cells(data, configuration)
        found |= methods
        papers = [printed[str(variant)][way] for way in shown]
        rows.append(
            (
                word(variant),
                word(configuration),
                *cells,
                *(percent(paper.mean if paper else None) for paper in papers),
                count(n),
            )
        )
    return Table(
        "ablations",
        "Variants of the method",
        (
            Column("variant", "Variant", numeric=False),
            Column("configuration", "Configuration", numeric=False),
            *(Column(f"auroc_{way}", f"{way} % [95 %]") for way in AGGREGATIONS),
            *(Column(f"paper_{way}", f"the paper's {way} %{marked}") for way in shown),
            Column("trials", "Trials (n)"),
        ),
        tuple(rows),
        f"AUROC, mean over classes and seeds. {method_note(found)} Where other settings were "
        "searched too, each variant stands with its configuration of the best rank (selection: "
        f"{data.selected_by})."
        + (
            " The paper's values: mean over all classes and the last 20 epochs as printed (Table 8 for CIFAR-10); ours "
            "are of the last epoch." + (data.paper_note(chosen) if chosen else "")
            if shown
            else ""
        )
        + (f" {missing}" if missing else ""),
    )
