"""Ablations of the method, if a study varied it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.reporting import paper_values
from puzzle_study.reporting.blocks import Blocks, Column, Row, Table, absent, section, table, words
from puzzle_study.reporting.cells import count, estimated, percent, word
from puzzle_study.reporting.choice import AGGREGATIONS
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.statistics.intervals import Mean, method_note


@section("ablations", "Ablations")
def build(data: StudyData) -> Blocks:
    """Yield the table of a detector's variants."""
    axis = variant_axis(data)
    if axis is None or not levels(data, axis):
        yield absent("This study did not vary the method (setting variant).")
    else:
        yield _variant_table(data, axis)


def variant_axis(data: StudyData) -> str | None:
    """Return the searched setting that names a variant, or None."""
    return next((name for name in data.axes if name.rpartition(".")[2] == "variant"), None)


def levels(data: StudyData, axis: str) -> list[tuple[Any, str]]:
    """Return each value of an axis with its best-ranked configuration (by selection, not by test labels)."""
    rows = data.ranked
    found: dict[Any, str] = {}
    for configuration in rows["configuration"].unique():
        value = data.values_of(configuration).get(axis)
        if value is not None and not pd.isna(value):
            found.setdefault(value, str(configuration))
    if axis == variant_axis(data):
        own = rows[rows["configuration"].isin(found.values())]
        order = list(DETECTORS[str(own["detector"].iloc[0])].Settings.VARIANTS)
        return sorted(found.items(), key=lambda item: order.index(item[0]))
    return sorted(found.items())


def means(data: StudyData, configuration: str) -> dict[str, Mean | None]:
    """Return the mean AUROC of a configuration under every aggregation and the winner's error norm."""
    choice = data.read_by(configuration, "avg", data.winner.error if data.winner else "l2")
    return {one.aggregation: data.mean(one) for one in choice.by_aggregation()}


def level_row(data: StudyData, value: Row, configuration: str, beside: Row | None = None) -> Row:
    """Return the row of a value: its configuration, the means under every aggregation, and further columns."""
    found = means(data, configuration)
    return {
        **value,
        words("configuration", "Configuration"): word(data.called(configuration)),
        **{Column(f"auroc_{way}", f"{way} % [95 %]"): estimated(mean, data.lacking()) for way, mean in found.items()},
        **(beside or {}),
        Column("trials", "Trials (n)"): count(next((mean.n for mean in found.values() if mean), 0)),
    }


def level_note(data: StudyData, axis: str, what: str) -> str:
    """Return how the intervals were made, and which configuration represents a value."""
    methods = method_note(
        mean for _, configuration in levels(data, axis) for mean in means(data, configuration).values()
    )
    return (
        f"{methods} If other settings were searched too, each {what} is shown with its best-ranked configuration "
        f"(selection: {data.selected_by})."
    )


def _variant_table(data: StudyData, axis: str) -> Table:
    found = levels(data, axis)
    printed = {variant: _printed(data, configuration) for variant, configuration in found}
    shown = [way for way in AGGREGATIONS if any(values[way] for values in printed.values())]
    chosen = data.described
    marked = " (here at a fraction of the budget)" if chosen and data.budget(chosen) else ""
    rows = []
    for variant, configuration in found:
        papers = {way: printed[variant][way] for way in shown}
        beside = {
            Column(f"paper_{way}", f"the paper's {way} %{marked}"): percent(paper.mean if paper else None)
            for way, paper in papers.items()
        }
        rows.append(level_row(data, {words("variant", "Variant"): word(variant)}, configuration, beside))
    note = f"AUROC, mean over classes and seeds. {level_note(data, axis, 'variant')}"
    if shown:
        note += (
            " The paper's values are means over all classes and the last 20 epochs as printed (Table 8 for CIFAR-10); "
            "ours are from the last epoch." + (data.paper_note(chosen) if chosen else "")
        )
    elif data.winner and (missing := paper_values.missing_auroc(data.dataset, data.conditions(data.winner))):
        note += f" {missing}"
    return table("ablations", "Variants of the method", rows, note)


def _printed(data: StudyData, configuration: str) -> dict[str, paper_values.PaperValues | None]:
    """Return the paper's values for a configuration by aggregation."""
    conditions = data.conditions(data.read_by(configuration, "avg", "l2"))
    return {way: paper_values.auroc(data.dataset, conditions, aggregation=way) for way in AGGREGATIONS}
