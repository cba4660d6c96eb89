"""What a report is made of: sections of paragraphs, tables and figures, still without HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Literal, TypeVar

from puzzle_study.reporting.cells import Cell


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
    """A drawn figure: ``png`` and ``svg`` are its content, ``alt`` says in words what is to be seen."""

    name: str
    png: bytes
    svg: bytes
    alt: str
    caption: str
    width: int
    height: int
    photo: bool = False


@dataclass(frozen=True)
class Paragraph:
    """A sentence or a few."""

    text: str
    kind: Literal["plain", "finding", "absent"] = "plain"


@dataclass(frozen=True)
class Listing:
    """Text that is shown as it is, folded until asked for."""

    title: str
    code: str


Block = Paragraph | Table | Figure | Listing
Blocks = Iterator[Block | None]
Row = dict[Column, Cell]
Reported = TypeVar("Reported")


@dataclass(frozen=True)
class Section:
    """One part of the report."""

    anchor: str
    title: str
    blocks: tuple[Block, ...] = ()


def section(anchor: str, title: str) -> Callable[[Callable[[Reported], Blocks]], Callable[[Reported], Section]]:
    """Make a section of a function that yields its blocks; what is None is left out."""

    def of_blocks(blocks: Callable[[Reported], Blocks]) -> Callable[[Reported], Section]:
        @wraps(blocks)
        def build(reported: Reported) -> Section:
            return Section(anchor, title, tuple(block for block in blocks(reported) if block is not None))

        return build

    return of_blocks


def absent(text: str) -> Paragraph:
    """Return the sentence that says what a study did not do."""
    return Paragraph(text, kind="absent")


def finding(text: str) -> Paragraph:
    """Return what a reader in a hurry must see."""
    return Paragraph(text, kind="finding")


def words(key: str, title: str) -> Column:
    """Return a column of text."""
    return Column(key, title, numeric=False)


def table(name: str, title: str, rows: Sequence[Row], note: str, *, collapsed: bool = False) -> Table:
    """Return a table of rows that all have the same columns, in the order of the first row."""
    columns = tuple(rows[0]) if rows else ()
    return Table(name, title, columns, tuple(tuple(row[one] for one in columns) for row in rows), note, collapsed)
