"""Data efficiency: AUROC by number of training images, if a study varied it."""

from __future__ import annotations

from dataclasses import replace

from puzzle_study.reporting import drawing, paper_values
from puzzle_study.reporting.blocks import Blocks, Column, Figure, Table, absent, section, table
from puzzle_study.reporting.cells import Cell, share
from puzzle_study.reporting.choice import AGGREGATIONS
from puzzle_study.reporting.sections.ablations import level_note, level_row, levels, means
from puzzle_study.reporting.study_data import StudyData

DATA_AXES = ("data.train_fraction", "data.max_train_images")


@section("data-efficiency", "Data efficiency")
def build(data: StudyData) -> Blocks:
    if not _axes(data):
        yield absent(_one_number(data))
    yield from tables(data)
    for axis in _axes(data):
        yield _figure(data, axis)


def _one_number(data: StudyData) -> str:
    """Return that the number of training images was not varied, its value, and the paper's means for it."""
    text = "This study did not vary the number of training images."
    choice = data.described
    if choice is None:
        return text
    conditions = data.conditions(choice)
    used = paper_values.images_in_use(conditions)
    return text + (f" It trained with {used}." if used else "") + _twelfth(data.dataset, conditions)


def _twelfth(dataset: str, conditions: paper_values.Conditions | None) -> str:
    paper = paper_values.data_efficiency(dataset, conditions) if conditions else {}
    beside = "; ".join(f"{method} {share(value)} %" for method, value in paper.items())
    return f" The paper's at 1/12 of the training images (Table 9, mean over ten classes): {beside}." if beside else ""


def _at_a_twelfth(data: StudyData, axis: str) -> paper_values.Conditions | None:
    """Return the settings at 1/12 of the training images, or None if an axis counts differently."""
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
    rows = [
        level_row(data, {Column("value", axis): Cell(f"{value:g}", float(value))}, configuration)
        for value, configuration in levels(data, axis)
    ]
    note = f"Mean over classes and seeds. {level_note(data, axis, 'value')}"
    note += _twelfth(data.dataset, _at_a_twelfth(data, axis))
    return table(axis.replace(".", "_"), f"AUROC by {axis}", rows, note)


def _figure(data: StudyData, axis: str) -> Figure | None:
    found = [(float(value), means(data, configuration)) for value, configuration in levels(data, axis)]
    if len(found) < 2 or not any(any(own.values()) for _, own in found):
        return None
    x = [value for value, _ in found]
    twelfth = _at_a_twelfth(data, axis)
    paper = paper_values.data_efficiency(data.dataset, twelfth).get(paper_values.PUZZLE_AE) if twelfth else None
    with drawing.drawing(5.6, 3.8) as (figure, (place,)):
        ends = ""
        for way in AGGREGATIONS:
            points = [(value, mean) for value, own in found if (mean := own[way])]
            place.errorbar(
                [value for value, _ in points],
                [100 * mean.value for _, mean in points],
                yerr=drawing.bars([mean for _, mean in points]),
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
            name=axis.replace(".", "_"),
            alt=f"Lines of AUROC against {axis} from {x[0]:g} to {x[-1]:g} for {', '.join(AGGREGATIONS)}{ends}.",
            caption=f"AUROC against {axis}; means and intervals as in the table.",
        )
