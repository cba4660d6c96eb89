"""Registries: the entries of a kind (detectors, criteria, attack places, …) by name, each in its own module.

An entry is imported on first use, so listing names is cheap.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from puzzle_study.errors import UserError, suggestion

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry], Generic[Entry]):
    """Entries of one kind by name, in a fixed order; the first is the default.

    >>> from puzzle_study.criteria.registry import CRITERIA
    >>> CRITERIA.default, CRITERIA["oracle"].uses_labels
    ('pseudo_anomalies', True)

    Args:
        kind: name of the kind for errors, such as ``detector``.
        entries: the location of each, as ``module:attribute``.
        group: entry point group for other packages' entries, which follow these, sorted by name; None: not allowed.
    """

    def __init__(self, kind: str, entries: Mapping[str, str], *, group: str | None = None) -> None:
        self.kind, self.group = kind, group
        self._own = dict(entries)
        self._found: dict[str, Entry] = {}

    @cached_property
    def _added(self) -> dict[str, EntryPoint]:
        if self.group is None:
            return {}
        points = sorted(entry_points(group=self.group), key=lambda point: point.name)
        return {point.name: point for point in points if point.name not in self._own}

    @property
    def default(self) -> str:
        """Name of the first entry."""
        return next(iter(self._own))

    @property
    def classes(self) -> dict[str, str]:
        """Names of this package's entries by their class, without importing any."""
        return {location.rpartition(":")[2]: name for name, location in self._own.items()}

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._added

    def __len__(self) -> int:
        return len(self._own) + len(self._added)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._added

    def __getitem__(self, name: str) -> Entry:
        """Return an entry; UserError if it is unknown, or another package's cannot be imported."""
        if name not in self._found:
            self._found[name] = self._load(name)
        return self._found[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry, or the default for an unknown name."""
        return self[name] if name in self else default  # noqa: SIM401 - this is `get` itself

    def _load(self, name: str) -> Entry:
        found: Entry
        if name in self._own:
            module, _, attribute = self._own[name].partition(":")
            found = getattr(importlib.import_module(module), attribute)
            return found
        if name not in self._added:
            raise UserError(f"there is no {self.kind} {name!r}{suggestion(name, self)}; there are {', '.join(self)}")
        point = self._added[name]
        try:
            found = point.load()
        except Exception as error:  # another package's module may raise anything
            raise UserError(
                f"the {self.kind} {name} of another package cannot be imported ({point.value}: {error}); fix or "
                f"remove that package"
            ) from error
        return found
