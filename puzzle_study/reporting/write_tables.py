"""Tables as CSV (raw fractions, for programs), Markdown and LaTeX (for people)."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from puzzle_study.io import write_text
from puzzle_study.reporting.blocks import Table
from puzzle_study.reporting.cells import Cell

if TYPE_CHECKING:
    import pandas as pd

_MATH = r"""
− - × \times ± \pm ≤ \leq ≥ \geq ε \varepsilon α \alpha λ \lambda β \beta δ \delta ρ \rho
½ \frac{1}{2} ⌈ \lceil ⌉ \rceil → \to ² ^2
"""
_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        **{sign: f"${code}$" for sign, code in zip(_MATH.split()[::2], _MATH.split()[1::2], strict=True)},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "–": "--",
        "\u202f": r"\,",
        "…": r"\ldots{}",
    }
)


def write_table(table: Table, folder: Path) -> None:
    """Write ``<name>.csv``, ``.md`` and ``.tex`` into a folder."""
    write_text(folder / f"{table.name}.csv", as_csv(table))
    write_text(folder / f"{table.name}.md", as_markdown(table))
    write_text(folder / f"{table.name}.tex", as_latex(table))


def as_frame(table: Table) -> pd.DataFrame:
    """Return the table as people read it, for notebooks."""
    import pandas as pd

    titles = [column.title for column in table.columns]
    return pd.DataFrame([[cell.text for cell in row] for row in table.rows], columns=titles)


def as_csv(table: Table) -> str:
    """Return the raw values; a column with intervals is followed by its ``_low`` and ``_high``."""
    spread = [any(row[i].low is not None for row in table.rows) for i in range(len(table.columns))]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    header: list[str] = []
    for column, interval in zip(table.columns, spread, strict=True):
        header += [column.key, f"{column.key}_low", f"{column.key}_high"] if interval else [column.key]
    writer.writerow(header)
    for row in table.rows:
        values: list[object] = []
        for cell, interval in zip(row, spread, strict=True):
            values += [cell.value, cell.low, cell.high] if interval else [cell.value]
        writer.writerow(["" if value is None else value for value in values])
    return stream.getvalue()


def as_markdown(table: Table) -> str:
    """Return the table as GitHub Markdown, with its title above and its note below."""
    lines = [f"**{_markdown(table.title)}**", ""]
    lines.append("| " + " | ".join(_markdown(column.title) for column in table.columns) + " |")
    lines.append("|" + "|".join(" ---: " if column.numeric else " --- " for column in table.columns) + "|")
    lines += ["| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join([*lines, "", _markdown(table.note), ""])


def as_latex(table: Table) -> str:
    """Return the table as LaTeX for the ``booktabs`` package."""
    alignment = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_latex(table.title)}. {_latex(table.note)}}}",
        f"\\label{{tab:{table.name.replace('_', '-')}}}",
        f"\\begin{{tabular}}{{{alignment}}}",
        "\\toprule",
        " & ".join(_latex(column.title) for column in table.columns) + " \\\\",
        "\\midrule",
        *(" & ".join(_latex_cell(cell) for cell in row) + " \\\\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    """Escape anything that would end a cell or begin HTML."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _markdown_cell(cell: Cell) -> str:
    text = _markdown(cell.text + (f" ({'; '.join(cell.more)})" if cell.more else ""))
    return f"**{text}**" if cell.strong else text


def _latex(text: str) -> str:
    return text.replace("\n", " ").translate(_LATEX)


def _latex_cell(cell: Cell) -> str:
    text = _latex(cell.text)
    # A leading bracket would be read as the optional argument of the row end before it.
    text = f"{{}}{text}" if text.startswith("[") else text
    return f"\\textbf{{{text}}}" if cell.strong else text
