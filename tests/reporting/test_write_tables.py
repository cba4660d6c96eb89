"""Tables in their three formats, and how numbers are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from puzzle_study.reporting import blocks, cells, write_tables
from puzzle_study.statistics.intervals import Estimate

NAME, AUROC, N = blocks.words("name", "Name_1"), blocks.Column("auroc", "AUROC % [95 %]"), blocks.Column("n", "n")
MANY = cells.count(12345)
TABLE = blocks.table(
    "example",
    "Costs & <gains>",
    [
        {NAME: cells.word("a|b"), AUROC: cells.estimated(Estimate(0.965, 0.95, 0.98), strong=True), N: MANY},
        {NAME: cells.word(None), AUROC: cells.percent(None), N: cells.count(float("nan"))},
    ],
    "ε is 10 % of it.",
)


def test_csv_has_raw_values_and_ends_of_intervals() -> None:
    assert write_tables.as_csv(TABLE) == "name,auroc,auroc_low,auroc_high,n\na|b,0.965,0.95,0.98,12345\n,,,,\n"


def test_markdown_escapes_cells() -> None:
    lines = write_tables.as_markdown(TABLE).splitlines()
    assert lines[0] == "**Costs & &lt;gains>**"
    assert lines[3] == "| --- | ---: | ---: |"
    assert lines[4] == "| a\\|b | **96.5 [95.0, 98.0]** | 12\u202f345 |"
    assert lines[5] == "| – | – | – |"


def test_latex_escapes_and_aligns() -> None:
    text = write_tables.as_latex(TABLE)
    assert "\\begin{tabular}{lrr}" in text
    assert "Name\\_1 & AUROC \\% [95 \\%] & n \\\\" in text
    assert "\\textbf{96.5 [95.0, 98.0]} & 12\\,345" in text
    assert "Costs \\& <gains>. $\\varepsilon$ is 10 \\% of it." in text


def test_files_of_a_table(tmp_path: Path) -> None:
    write_tables.write_table(TABLE, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["example.csv", "example.md", "example.tex"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00123456, "0.00123"), (0.1, "0.1"), (123.456, "123"), (1234567.0, "1.23e+06"), (0, "0"), (-0.5, "−0.5"),
     (1e-7, "1.00e−07"), (9.999, "10")],
)  # fmt: skip
def test_significant_digits(value: float, text: str) -> None:
    assert cells.significant(value) == text


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [(0.965, False, "96.5"), (-0.013, True, "−1.3"), (-0.00001, True, "0.0"), (0.02, True, "+2.0")],
)
def test_shares(value: float, signed: bool, text: str) -> None:
    assert cells.share(value, signed=signed) == text


def test_interval_without_an_end_is_left_out() -> None:
    cell = cells.percent(0.5)
    assert (cell.text, cell.low) == ("50.0", None)
