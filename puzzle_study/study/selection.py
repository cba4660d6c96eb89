"""Selection criteria: how good a configuration is, without test labels unless the study says ``oracle``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from puzzle_study import config

EVALUATION_AXES = ("score.error", "score.aggregation")


@dataclass(frozen=True)
class Reading:
    """One way to read a detector's error matrices: settings that need no training."""

    error: config.ErrorNorm
    aggregation: config.Aggregation

    @property
    def values(self) -> dict[str, str]:
        """The settings by dotted name."""
        return {"score.error": self.error, "score.aggregation": self.aggregation}


def readings(study: config.Study) -> list[Reading]:
    """Return the readings that may win: the study's own, or every value of the axes that need no training."""
    space = study.search.space if study.search else {}
    errors = space["score.error"].values if "score.error" in space else (study.score.error,)
    aggregations = space["score.aggregation"].values if "score.aggregation" in space else (study.score.aggregation,)
    return [Reading(error, aggregation) for error, aggregation in itertools.product(errors, aggregations)]


def trial_value(record: Mapping[str, Any], reading: Reading, selection: config.Selection) -> float:
    """Return what a finished trial is worth, higher being better.

    ``pseudo_anomalies``: AUROC of its validation images against pseudo-anomalies made of them. ``oracle``: its test
    AUROC.
    """
    metrics = record["metrics"][reading.error][reading.aggregation]
    return float(metrics["auroc" if selection == "oracle" else "selection"])


def configuration_value(records: Iterable[Mapping[str, Any]], reading: Reading, selection: config.Selection) -> float:
    """Return the mean over all trials of a configuration; the caller makes sure that none is missing."""
    return fmean(trial_value(record, reading, selection) for record in records)
