"""A row of the summary that a report speaks of: a configuration or reference under a reading."""

from __future__ import annotations

from dataclasses import dataclass, replace

from puzzle_study import config
from puzzle_study.config.types import parted
from puzzle_study.detectors import scoring
from puzzle_study.detectors.registry import DETECTORS

AGGREGATIONS: tuple[str, ...] = tuple(scoring.AGGREGATIONS)


@dataclass(frozen=True)
class Choice:
    """A row of the summary: a configuration (or reference) with its aggregation and error norm."""

    configuration: str
    detector: str
    aggregation: str
    error: str
    is_reference: bool = False

    @property
    def along(self) -> str:
        """The aggregation of all views, under which trainings are followed."""
        return parted(self.aggregation)[0]

    @property
    def reading(self) -> config.Reading:
        """How its error matrices are read."""
        return config.Reading(self.error, self.aggregation)

    @property
    def title(self) -> str:
        """The detector's name for people."""
        return title_of(self.detector)

    def by_aggregation(self) -> list[Choice]:
        """Return the configuration under every aggregation."""
        return [replace(self, aggregation=way) for way in AGGREGATIONS]


def title_of(detector: str) -> str:
    """Return a detector's name for people, or its registry name if its package is not installed here."""
    return DETECTORS[detector].title if detector in DETECTORS else detector
