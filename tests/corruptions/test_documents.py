"""docs/corruptions.md holds the table of the code and the columns of the table that a study writes."""

from __future__ import annotations

from pathlib import Path

from puzzle_study.corruptions.base import PIXELS
from puzzle_study.corruptions.registry import CORRUPTIONS
from puzzle_study.reporting.reading import NEEDED

PAGE = (Path(__file__).parents[2] / "docs" / "corruptions.md").read_text(encoding="utf-8")


def test_the_page_holds_every_corruption_with_its_values() -> None:
    lines = ["| corruption | what it does | unit | severities 1 to 5 |", "|---|---|---|---|"]
    for name, kind in CORRUPTIONS.items():
        unit = "% of the shorter side" if kind.unit == PIXELS else kind.unit
        lines.append(f"| `{name}` | {kind.does} | {unit} | {', '.join(f'{value:g}' for value in kind.values)} |")
    assert "\n".join(lines) in PAGE
    shift = CORRUPTIONS["shift"]
    assert f"{shift.value(3, 28):.1f} pixels of 28 and {shift.value(3, 256):.0f} pixels of 256" in PAGE


def test_the_page_names_every_column_that_the_report_reads() -> None:
    rest = {"dataset", "normal_class"}
    for name in set(NEEDED["corruptions_file"]) - rest:
        assert f"`{name.removesuffix('_low').removesuffix('_high')}`" in PAGE, name
