"""What a test reads from a report."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Page:
    """A report by the path of its page."""

    path: Path

    @property
    def html(self) -> str:
        """The page itself."""
        return self.path.read_text(encoding="utf-8")

    def paragraphs(self, anchor: str) -> list[str]:
        """Return the paragraphs of a section as text."""
        part = re.search(rf'<section id="{anchor}">(.*?)</section>', self.html, re.DOTALL)
        assert part is not None
        found = re.findall(r"<p(?: class=\"(?:finding|absent)\")?>(.*?)</p>", part[1], re.DOTALL)
        return [text.replace("\u00a0", " ").replace("&#39;", "'") for text in found]

    def starting(self, anchor: str, words: str) -> str:
        """Return the one paragraph of a section that starts with these words."""
        (text,) = (text for text in self.paragraphs(anchor) if text.startswith(words))
        return text

    def table(self, name: str) -> list[dict[str, str]]:
        """Return a table that the report wrote."""
        with (self.path.parent / "tables" / f"{name}.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def markdown(self, name: str) -> str:
        """Return a table as it is read, with its note."""
        return (self.path.parent / "tables" / f"{name}.md").read_text(encoding="utf-8")

    def files(self, folder: str) -> set[str]:
        """Return the names of tables or figures."""
        return {path.name for path in (self.path.parent / folder).iterdir()}


@contextmanager
def edited(path: Path) -> Iterator[pd.DataFrame]:
    """Give a table of a study and write it again as it is then."""
    table = pd.read_csv(path, dtype={"configuration": str, "trial": str})
    yield table
    table.to_csv(path, index=False)
