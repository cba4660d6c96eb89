"""What a report is made of: sections of paragraphs, tables and figures, still without HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """One entry of a table: what is read, what is sorted by, and the interval around it."""

    text: str
    value: float | str | bool | None = None
    low: float | None = None
    high: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Column:
    """Heading of a column, and the name it has in the CSV file."""

    key: str
    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table with the sentence that says what its numbers and intervals are.

    ``collapsed`` tables are folded in the HTML page until they are asked for.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str
    collapsed: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawn figure: ``png`` is its content, ``alt`` says in words what is to be seen."""

    name: str
    png: bytes
    alt: str
    caption: str
    width: int
    height: int
    photo: bool = False


@dataclass(frozen=True)
class Paragraph:
    """A sentence or a few; ``finding`` marks what a reader in a hurry must see."""

    text: str
    kind: Literal["plain", "finding", "absent"] = "plain"


@dataclass(frozen=True)
class Listing:
    """Text that is shown as it is, folded until asked for."""

    title: str
    code: str


Block = Paragraph | Table | Figure | Listing


@dataclass(frozen=True)
class Section:
    """One part of the report."""

    anchor: str
    title: str
    blocks: tuple[Block, ...] = field(default=())


def section(anchor: str, title: str, blocks: Sequence[Block | None]) -> Section:
    """Return a section without the blocks that are None."""
    return Section(anchor, title, tuple(block for block in blocks if block is not None))


def absent(text: str) -> Paragraph:
    """Return the sentence that stands where a study did not do something."""
    return Paragraph(text, kind="absent")


def word(text: object, *, strong: bool = False) -> Cell:
    """Return a cell of text."""
    shown = "" if text is None else str(text)
    return Cell(shown or NOTHING, shown, strong=strong)


def count(value: float | None) -> Cell:
    """Return a cell with a whole number."""
    if value is None or math.isnan(value):
        return Cell(NOTHING)
    return Cell(f"{round(value):,}".replace(",", "\u202f"), round(value))


def number(value: float | None, digits: int = 3) -> Cell:
    """Return a cell with a number of so many significant digits."""
    if value is None or math.isnan(value):
        return Cell(NOTHING)
    return Cell(significant(value, digits), float(value))


def percent(
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    digits: int = 1,
    signed: bool = False,
    strong: bool = False,
) -> Cell:
    """Return a cell with a share in percent and, where there is one, its interval in brackets."""
    if value is None or math.isnan(value):
        return Cell(NOTHING)
    text = share(value, digits=digits, signed=signed)
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return Cell(text, float(value), strong=strong)
    bounds = f"[{share(low, digits=digits, signed=signed)}, {share(high, digits=digits, signed=signed)}]"
    return Cell(f"{text} {bounds}", float(value), float(low), float(high), strong=strong)


def share(value: float, *, digits: int = 1, signed: bool = False) -> str:
    """Return a fraction as percent without the sign; a minus is a real minus."""
    sign = "+" if signed else ""
    text = f"{100 * value:{sign}.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, without an exponent where that can be read."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-4 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:.{digits - 1}e}"
    return text.replace("-", "−")
