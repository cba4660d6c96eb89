"""Data efficiency: the AUROC by the number of training images, if a study varied it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

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
    section,
    share,
    word,
)
from puzzle_study.reporting.sections.ablations import choice_of, levels, mean_cells
from puzzle_study.reporting.study_data import AGGREGATIONS
from puzzle_study.statistics.intervals import method_note

if TYPE_CHECKING:
    from pathlib import Path

    from puzzle_study.reporting.study_data import StudyData

DATA_AXES = ("data.train_fraction", "data.max_train_images")


def build(data: StudyData, figures: Path) -> Section:
    """Return the section."""
    title = "Data efficiency"
    blocks: list[Block | None] = [*tables(data)]
    blocks += [_figure(data, name, figures) for name in _axes(data)]
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


def tables(data: StudyData) -> list[Table]:
    """Return a table for each searched axis of the number of training images."""
    return [_table(data, name) for name in _axes(data)]


def _axes(data: StudyData) -> list[str]:
    return [name for name in DATA_AXES if name in data.axes and levels(data, name)]


def _table(data: StudyData, axis: str) -> Table:
    found: set[str] = set()
    rows = []
    for value, configuration in levels(data, axis):
        cells, n, methods = mean_cells(data, configuration)
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


def _figure(data: StudyData, axis: str, figures: Path) -> Figure | None:
    found = levels(data, axis)
    if len(found) < 2 or not any(mean_cells(data, configuration)[1] for _, configuration in found):
        return None
    x = [float(value) for value, _ in found]
    twelfth = _at_a_twelfth(data, axis)
    paper = paper_values.data_efficiency(data.dataset, twelfth).get(paper_values.PUZZLE_AE) if twelfth else None
    with drawing.drawing(5.6, 3.8) as (figure, (place,)):
        ends = ""
        for way in AGGREGATIONS:
            means = [data.mean(choice_of(data, configuration, way)) for _, configuration in found]
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
            alt=f"Lines of AUROC against {axis} from {x[0]:g} to {x[-1]:g} for {', '.join(AGGREGATIONS)}{ends}.",
            caption=f"AUROC against {axis}; means and intervals as in the table.",
        )
