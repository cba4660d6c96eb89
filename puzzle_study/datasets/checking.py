"""Checks a set on disk: every file is read, images are counted, checksums compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from puzzle_study import config
from puzzle_study.datasets import finding, noticing
from puzzle_study.datasets.catalogue import DATASETS
from puzzle_study.datasets.files_unit import FilesUnit
from puzzle_study.datasets.records import Inspection, Unit, attempt, hexdigest
from puzzle_study.errors import UserError


@dataclass(frozen=True)
class Report:
    """What a check found."""

    folder: str
    counts: Mapping[str, int]
    """Images by part or by class, or all of them where the catalogue knows no other count."""
    damaged: tuple[str, ...]
    """One sentence for each file that cannot be used."""
    notes: tuple[str, ...]
    """What is unusual, but does no harm by itself."""


def check(name: str, root: str | None) -> Report:
    """Read all files of a set, going on after damaged ones.

    Raises:
        UserError: the set is not there at all.
    """
    units = finding.units(name, root)
    found = [attempt(unit.inspect) for unit in units.values()]
    counts: Counter[str] = Counter()
    damaged: list[str] = []
    for result in found:
        if isinstance(result, Inspection):
            counts.update(result.counts)
            damaged += result.damaged
        else:
            damaged.append(str(result))
    expected = DATASETS[name].expected
    notes = [*_unofficial(name, units), *_duplicates(units)]
    if not damaged:
        notes += noticing.notes(config.Data.model_validate({"name": name, "root": root}))
    if set(expected) == {"all"}:
        # Counted by class, of which the catalogue knows no counts.
        counts = Counter(all=counts.total())
    if expected and not damaged and dict(counts) != dict(expected):
        notes.append(f"the whole set has {in_words(expected)}, so this is a part of it or another edition")
    return Report(folder=finding.described(units), counts=counts, damaged=tuple(damaged), notes=tuple(notes))


def in_words(counts: Mapping[str, int]) -> str:
    """Write counts like ``60,000 train and 10,000 test images``."""
    parts = [f"{count:,}" if kind == "all" else f"{count:,} {kind}" for kind, count in counts.items()]
    return f"{' and '.join([', '.join(parts[:-1]), parts[-1]]) if len(parts) > 1 else ''.join(parts)} images"


def _unofficial(name: str, units: Mapping[str, Unit]) -> list[str]:
    """Name files that are not, byte for byte, those that the authors published."""
    checksums = DATASETS[name].checksums
    notes = []
    for unit in units.values():
        for file in unit.files if unit.base and checksums else ():
            wanted = checksums.get(Path(file).name)
            if wanted and unit.base and attempt(partial(hexdigest, unit.base / file, "md5")) != wanted:
                notes.append(
                    f"{unit.base / file} is not byte for byte the published file: another edition, or damaged unseen"
                )
    return notes


def _duplicates(units: Mapping[str, Unit]) -> list[str]:
    """Count copies in sets without a given split, where they could reach both sides of ours."""
    unit = units.get("")
    if not isinstance(unit, FilesUnit) or isinstance(attempt(lambda: unit.files), UserError):
        return []
    digests = [attempt(partial(hexdigest, unit.base / file, "md5")) for file in unit.files]
    copies = len(digests) - len(set(map(str, digests)))
    return [f"{copies} files are byte-identical copies of others; splits keep copies together"] if copies else []
