"""Ablations of the method and data efficiency, where a study has those axes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.reporting import drawing, paper_values
from puzzle_study.reporting.blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Section,
    Table,
    absent,
    count,
    percent,
    section,
    share,
    word,
)
from puzzle_study.reporting.study_data import AGGREGATIONS, Choice
from puzzle_study.statistics.intervals import method_note

if TYPE_CHECKING:
    from puzzle_study.reporting.study_data import StudyData

DATA_AXES = ("data.train_fraction", "data.max_train_images")


def build_variants(data: StudyData) -> Section:
    """Return the section on the variants of a detector."""
    title = "Ablations"
    axis = variant_axis(data)
    if axis is None or not _levels(data, axis):
        return section("ablations", title, [absent("This study did not vary the method (setting variant).")])
    return section("ablations", title, [_variant_table(data, axis)])


def variant_axis(data: StudyData) -> str | None:
    """Return the searched setting that names a variant, or None."""
    return next((name for name in data.axes if name.rpartition(".")[2] == "variant"), None)


def build_data(data: StudyData, figures: Path) -> Section:
    """Return the section on the number of training images."""
    title = "Data efficiency"
    blocks: list[Block | None] = [*data_tables(data)]
    blocks += [_data_figure(data, name, figures) for name in _data_axes(data)]
    return section("data-efficiency", title, blocks or [absent(_one_number(data))])


def _one_number(data: StudyData) -> str:
    """Return that the number of training images was not varied, what it was, and the paper's means for it."""
    text = "This study did not vary the number of training images."
    choice = data.described
    if choice is None:
        return text
    conditions = data.conditions(choice)
    used = paper_values.images_in_use(conditions)
    return text + (f" It trained with {used}." if used else "") + _twelfth(data.dataset, conditions)


def _twelfth(dataset: str, conditions: paper_values.Conditions) -> str:
    paper = paper_values.data_efficiency(dataset, conditions)
    beside = "; ".join(f"{method} {share(value)} %" for method, value in paper.items())
    return f" The paper's at 1/12 of the training images (Table 9, mean over ten classes): {beside}." if beside else ""


def _at_a_twelfth(data: StudyData, axis: str) -> paper_values.Conditions | None:
    """Return the settings at 1/12 of the training images, or None where an axis counts them otherwise."""
    choice = data.described
    if axis != "data.train_fraction" or choice is None:
        return None
    return replace(data.conditions(choice), train_fraction=paper_values.TWELFTH)


def data_tables(data: StudyData) -> list[Table]:
    """Return a table for each searched axis of the number of training images."""
    return [_data_table(data, name) for name in _data_axes(data)]


def _data_axes(data: StudyData) -> list[str]:
    return [name for name in DATA_AXES if name in data.axes and _levels(data, name)]


def _levels(data: StudyData, axis: str) -> list[tuple[Any, str]]:
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


def _choice(data: StudyData, configuration: str, aggregation: str) -> Choice:
    return data.read_by(configuration, aggregation, data.winner.error if data.winner else "l2")


def _mean_cells(data: StudyData, configuration: str) -> tuple[list[Cell], int, set[str]]:
    cells, n, methods = [], 0, set()
    for way in AGGREGATIONS:
        mean = data.mean(_choice(data, configuration, way))
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
            way: paper_values.auroc(data.dataset, data.conditions(_choice(data, configuration, way)), aggregation=way)
            for way in AGGREGATIONS
        }
        for variant, configuration in _levels(data, axis)
    }
    shown = [way for way in AGGREGATIONS if any(values[way] for values in printed.values())]
    missing = (
        "" if shown or data.winner is None else paper_values.missing_auroc(data.dataset, data.conditions(data.winner))
    )
    chosen = data.described
    marked = " (here at a fraction of the budget)" if chosen and data.budget(chosen) else ""
    for variant, configuration in _levels(data, axis):
        cells, n, methods = _mean_cells(data, configuration)
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


def _data_table(data: StudyData, axis: str) -> Table:
    found: set[str] = set()
    rows = []
    for value, configuration in _levels(data, axis):
        cells, n, methods = _mean_cells(data, configuration)
        found |= methods
        rows.append((Cell(f"{value:g}", float(value)), word(configuration), *cells, count(n)))
    twelfth = _at_a_twelfth(data, axis)
    return Table(
        axis.replace(".", "_"),
        f"AUROC by {axis}",
        (
            Column("value", axis),
            Column("configuration", "Configuration", numeric=False),
            *(Column(f"auroc_{way}", f"{way} % [95 %]") for way in AGGREGATIONS),
            Column("trials", "Trials (n)"),
        ),
        tuple(rows),
        f"Mean over classes and seeds. {method_note(found)} Where other settings were searched too, "
        f"each value stands with its configuration of the best rank (selection: {data.selected_by})."
        + (_twelfth(data.dataset, twelfth) if twelfth else ""),
    )


def _data_figure(data: StudyData, axis: str, figures: Path) -> Figure | None:
    levels = _levels(data, axis)
    if len(levels) < 2 or not any(_mean_cells(data, configuration)[1] for _, configuration in levels):
        return None
    x = [float(value) for value, _ in levels]
    twelfth = _at_a_twelfth(data, axis)
    paper = paper_values.data_efficiency(data.dataset, twelfth).get(paper_values.PUZZLE_AE) if twelfth else None
    with drawing.drawing(5.6, 3.8) as (figure, (place,)):
        ends = ""
        for way in AGGREGATIONS:
            means = [data.mean(_choice(data, configuration, way)) for _, configuration in levels]
            points = [(a, mean) for a, mean in zip(x, means, strict=True) if mean]
            place.errorbar(
                [a for a, _ in points],
                [100 * mean.value for _, mean in points],
                yerr=[
                    [max(0.0, 100 * (mean.value - mean.low)) for _, mean in points],
                    [max(0.0, 100 * (mean.high - mean.value)) for _, mean in points],
                ],
                color=drawing.AGGREGATION_COLOURS[way],
                linestyle=drawing.AGGREGATION_DASHES[way],
                marker="o",
                markersize=4,
                capsize=3,
                label=way,
            )
            if points and data.winner and way == data.winner.aggregation:
                ends = f"; {way} goes from {100 * points[0][1].value:.1f} to {100 * points[-1][1].value:.1f} %"
        if paper is not None:
            place.scatter(
                [1 / 12], [100 * paper], marker="X", s=70, color="black", label="the paper's (Table 9)", zorder=4
            )
        place.set_xscale("log")
        place.set_xticks(x, [f"{value:g}" for value in x])
        place.minorticks_off()
        place.set(xlabel=axis, ylabel="AUROC, %")
        place.legend()
        return drawing.finished(
            figure,
            figures,
            name=axis.replace(".", "_"),
            alt=f"Lines of AUROC against {axis} from {x[0]:g} to {x[-1]:g} for min, avg and max{ends}.",
            caption=f"AUROC against {axis}; means and intervals as in the table.",
        )
