"""The settings: what was searched, and the resolved study file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puzzle_study.reporting.blocks import (
    NOTHING,
    Block,
    Cell,
    Column,
    Listing,
    Section,
    Table,
    absent,
    section,
    significant,
    word,
)
from puzzle_study.reporting.sections.ranking import axis_cell
from puzzle_study.reporting.study_data import AGGREGATIONS

if TYPE_CHECKING:
    from pathlib import Path

    from puzzle_study.reporting.study_data import StudyData


def build(data: StudyData, figures: Path) -> Section:
    """Return the section."""
    blocks: list[Block | None] = [_searched(data)]
    if data.results.study_file.exists():
        text = data.results.study_file.read_text(encoding="utf-8")
        blocks.append(Listing("study.yaml, the resolved study: it can be run again as it is", text))
    else:
        blocks.append(absent("study.yaml is not in the folder."))
    return section("settings", "Settings", blocks)


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
        values = " – ".join(map(_short, axis.values)) if axis and "uniform" in axis.kind else ""
        values = values or (", ".join(map(_short, axis.values)) if axis else "")
        rows.append(
            (
                word(name),
                word(f"{axis.kind} {values}" if axis else ""),
                axis_cell(theirs.get(name)),
                axis_cell(ours.get(name)),
            )
        )
    rows.append((word("score.aggregation"), word(", ".join(AGGREGATIONS)), _way(default), _way(winner)))
    return Table(
        "searched_settings",
        "Searched settings",
        (
            Column("setting", "Setting", numeric=False),
            Column("range", "Range", numeric=False),
            Column("default", "Default"),
            Column("winner", "Winner"),
        ),
        tuple(rows),
        f"Winner: chosen by {data.selected_by}. {NOTHING}: not in play under the other settings.",
    )


def _way(choice: Any) -> Cell:
    return word(choice.aggregation) if choice else Cell(NOTHING)


def _short(value: object) -> str:
    return significant(float(value), 3) if isinstance(value, float) else str(value)
