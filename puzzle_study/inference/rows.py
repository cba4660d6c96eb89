"""The table of scores, row by row: as CSV, or as JSON lines."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TextIO

COLUMNS = ("path", "score", "percentile", "flagged", "error")


class Rows(ABC):
    """Writes rows to a table. A file that could not be read has an error and nothing else."""

    def __init__(self, table: TextIO) -> None:
        self.table = table

    @abstractmethod
    def scored(self, path: Path, score: float, percentile: float, flagged: bool) -> None:
        """Write the row of an image."""

    @abstractmethod
    def unreadable(self, path: Path, error: str) -> None:
        """Write the row of a file that could not be read."""


class CsvRows(Rows):
    """CSV with a head, which comes with the first row: before it, a mistake may still be found."""

    def __init__(self, table: TextIO) -> None:
        super().__init__(table)
        self._writer, self._begun = csv.writer(table, lineterminator="\n"), False

    def scored(self, path: Path, score: float, percentile: float, flagged: bool) -> None:
        """Write the row of an image."""
        self._write(path, f"{score:.6g}", f"{percentile:.1f}", str(flagged).lower(), "")

    def unreadable(self, path: Path, error: str) -> None:
        """Write the row of a file that could not be read."""
        self._write(path, "", "", "", error)

    def _write(self, *values: Path | str) -> None:
        if not self._begun:
            self._writer.writerow(COLUMNS)
            self._begun = True
        self._writer.writerow(values)


class JsonRows(Rows):
    """One JSON object a line, in ASCII; bytes of a file name that are not text are lone surrogates, as in Python."""

    def scored(self, path: Path, score: float, percentile: float, flagged: bool) -> None:
        """Write the line of an image."""
        self._write(path, float(f"{score:.6g}"), round(percentile, 1), flagged, None)

    def unreadable(self, path: Path, error: str) -> None:
        """Write the line of a file that could not be read."""
        self._write(path, None, None, None, error)

    def _write(self, path: Path, *values: float | bool | str | None) -> None:
        self.table.write(json.dumps(dict(zip(COLUMNS, (str(path), *values), strict=True))) + "\n")


FORMATS: dict[str, type[Rows]] = {"csv": CsvRows, "json": JsonRows}
