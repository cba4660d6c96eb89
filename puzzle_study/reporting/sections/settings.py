"""The settings: what was searched, and the resolved study file."""

from __future__ import annotations

from puzzle_study.reporting.blocks import Blocks, Column, Listing, Row, Table, absent, section, table, words
from puzzle_study.reporting.cells import NOTHING, Cell, setting, significant, word
from puzzle_study.reporting.choice import AGGREGATIONS, Choice
from puzzle_study.reporting.study_data import StudyData


@section("settings", "Settings")
def build(data: StudyData) -> Blocks:
    yield _searched(data)
    if data.results.study_file.exists():
        text = data.results.study_file.read_text(encoding="utf-8")
        yield Listing("study.yaml, the resolved study, which you can run again", text)
    else:
        yield absent("study.yaml is missing from the folder.")


def _searched(data: StudyData) -> Table | None:
    winner, default = data.winner, data.default
    if not data.axes or winner is None:
        return None
    ours = data.values_of(winner.configuration)
    theirs = data.values_of(default.configuration) if default else {}
    axes = data.study.search.space if data.study and data.study.search else {}
    rows = []
    for name in data.axes:
        axis = axes.get(name)
        between = " – " if axis and "uniform" in axis.kind else ", "
        values = f"{axis.kind} {between.join(map(_short, axis.values))}" if axis else ""
        rows.append(_row(name, values, setting(theirs.get(name)), setting(ours.get(name))))
    rows.append(_row("score.aggregation", ", ".join(_ways(data)), _way(default), _way(winner)))
    note = f"Winner: chosen by {data.selected_by}. {NOTHING}: without effect under the other settings."
    return table("searched_settings", "Searched settings", rows, note)


def _ways(data: StudyData) -> list[str]:
    """Return the aggregations of all views, and those of fewer that could win."""
    return list(dict.fromkeys([*AGGREGATIONS, *data.configurations["aggregation"].astype(str)]))


def _row(name: str, values: str, default: Cell, winner: Cell) -> Row:
    return {
        words("setting", "Setting"): word(name),
        words("range", "Range"): word(values),
        Column("default", "Default"): default,
        Column("winner", "Winner"): winner,
    }


def _way(choice: Choice | None) -> Cell:
    return word(choice.aggregation) if choice else Cell(NOTHING)


def _short(value: object) -> str:
    return significant(float(value), 3) if isinstance(value, float) else str(value)
