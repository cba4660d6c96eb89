"""The parts of a report before HTML: sections with paragraphs, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import groupby
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
    """A table with a note on its numbers and intervals.

    ``collapsed`` tables are closed in the HTML page until the reader opens them.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str
    collapsed: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawn figure: ``png`` and ``svg`` are its content, ``alt`` describes it in words.

    ``told`` has the texts of groups of points, which the page shows under the pointer.
    """

    name: str
    png: bytes
    svg: bytes
    alt: str
    caption: str
    width: int
    height: int
    told: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Paragraph:
    """A sentence or a few."""

    text: str
    kind: Literal["plain", "finding", "absent"] = "plain"


@dataclass(frozen=True)
class Listing:
    """Literal text, closed until the reader opens it."""

    title: str
    code: str


@dataclass(frozen=True)
class Folded:
    """A line that opens into sentences."""

    title: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One number of the card, or a few words: what it is, its value, and what belongs to it."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Card:
    """The verdict: a headline, facts, and the command that uses the result.

    ``foot`` explains words of the facts; ``warns`` if the headline is one that a user should act on.
    """

    headline: str
    facts: tuple[Fact, ...]
    foot: str = ""
    use: str = ""
    command: str = ""
    warns: bool = False


Block = Paragraph | Table | Figure | Listing | Folded | Card
Blocks = Iterator[Block | None]
Row = dict[Column, Cell]
Reported = TypeVar("Reported")


@dataclass(frozen=True)
class Section:
    """One part of the report."""

    anchor: str
    title: str
    blocks: tuple[Block, ...] = ()

    @property
    def runs(self) -> list[tuple[bool, list[Block]]]:
        """The blocks, paragraphs that follow each other together; True: paragraphs."""
        grouped = groupby(self.blocks, key=lambda block: isinstance(block, Paragraph))
        return [(words, list(blocks)) for words, blocks in grouped]

    @property
    def absences(self) -> tuple[str, ...]:
        """What the study did not do, if the section has nothing else to say."""
        texts = [block.text for block in self.blocks if isinstance(block, Paragraph) and block.kind == "absent"]
        return tuple(texts) if len(texts) == len(self.blocks) else ()


def section(anchor: str, title: str) -> Callable[[Callable[[Reported], Blocks]], Callable[[Reported], Section]]:
    """Make a section from a function that yields its blocks; None is left out."""

    def of_blocks(blocks: Callable[[Reported], Blocks]) -> Callable[[Reported], Section]:
        @wraps(blocks)
        def build(reported: Reported) -> Section:
            return Section(anchor, title, tuple(block for block in blocks(reported) if block is not None))

        return build

    return of_blocks


def absent(text: str) -> Paragraph:
    """Return the sentence on what a study did not do."""
    return Paragraph(text, kind="absent")


def finding(text: str) -> Paragraph:
    """Return an important finding."""
    return Paragraph(text, kind="finding")


def words(key: str, title: str) -> Column:
    """Return a column of text."""
    return Column(key, title, numeric=False)


def table(name: str, title: str, rows: Sequence[Row], note: str, *, collapsed: bool = False) -> Table:
    """Return a table of rows with the columns of the first row."""
    columns = tuple(rows[0]) if rows else ()
    return Table(name, title, columns, tuple(tuple(row[one] for one in columns) for row in rows), note, collapsed)
