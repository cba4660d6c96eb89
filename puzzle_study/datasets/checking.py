"""Checks a set on disk: reads every file, counts images, compares checksums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from puzzle_study import config
from puzzle_study.datasets import finding, noticing
from puzzle_study.datasets.catalogue import DATASETS
from puzzle_study.datasets.files_unit import FilesUnit
from puzzle_study.datasets.records import Unit, attempt, hexdigest
from puzzle_study.errors import UserError


@dataclass(frozen=True)
class Report:
    """What a check found."""

    folder: str
    counts: Mapping[str, int]
    """Images by part or class, or in total if the catalogue has no other count."""
    damaged: tuple[str, ...]
    """One sentence for each unusable file."""
    notes: tuple[str, ...]
    """Unusual but harmless findings."""


def check(name: str, root: str | None) -> Report:
    """Read all files of a set, and continue after damaged ones."""
    units, expected = finding.units(name, root), DATASETS[name].expected
    counts, damaged = Counter[str](), list[str]()
    for unit in units.values():
        result = attempt(unit.inspect)
        if isinstance(result, UserError):
            damaged.append(str(result))
        else:
            counts.update(result.counts)
            damaged += result.damaged
    notes = [*_unofficial(name, units), *_duplicates(units)]
    if not damaged:
        notes += noticing.notes(config.Data.model_validate({"name": name, "root": root}))
    if set(expected) == {"all"}:
        counts = Counter(all=counts.total())  # the catalogue has no counts by class
    if expected and not damaged and dict(counts) != dict(expected):
        notes.append(f"the whole set has {in_words(expected)}, so this is part of it or another edition")
    return Report(folder=finding.described(units), counts=counts, damaged=tuple(damaged), notes=tuple(notes))


def in_words(counts: Mapping[str, int]) -> str:
    """Write counts like ``60,000 train and 10,000 test images``."""
    parts = [f"{count:,}" if kind == "all" else f"{count:,} {kind}" for kind, count in counts.items()]
    return f"{' and '.join([', '.join(parts[:-1]), parts[-1]]) if len(parts) > 1 else ''.join(parts)} images"


def _unofficial(name: str, units: Mapping[str, Unit]) -> list[str]:
    """Name files that differ from the authors' published files."""
    checksums = DATASETS[name].checksums
    paths = [unit.base / file for unit in units.values() if unit.base and checksums for file in unit.files]
    return [
        f"{path} is not byte for byte the published file: it is another edition, or silently damaged"
        for path in paths
        if path.name in checksums and attempt(partial(hexdigest, path, "md5")) != checksums[path.name]
    ]


def _duplicates(units: Mapping[str, Unit]) -> list[str]:
    """Count copies in sets without a given split, because ours must keep them together."""
    unit = units.get("")
    if not isinstance(unit, FilesUnit) or isinstance(attempt(lambda: unit.files), UserError):
        return []
    digests = [attempt(partial(hexdigest, unit.base / file, "md5")) for file in unit.files]
    copies = len(digests) - len(set(map(str, digests)))
    return [f"{copies} files are byte-identical copies of others; splits keep copies together"] if copies else []
