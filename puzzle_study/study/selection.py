"""What a configuration is worth: the selection criterion, or the columns that a search names as its objectives."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from puzzle_study import config, datasets
from puzzle_study.errors import UserError
from puzzle_study.statistics import metrics

LOWER_IS_BETTER = frozenset(
    {
        "fpr_at_tpr95",
        "fpr_at_tpr99",
        "fpr_at_tpr995",
        "val_error",
        "images_seen",
        "seconds",
        "train_seconds",
        "score_seconds",
    }
)
SHARES = frozenset(config.NEED_TEST_LABELS) | {"selection", "robust_selection"}

Worth = tuple[float, ...]
"""Mean of each objective over the trials of a configuration, in the order of the objectives."""


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


def objectives(study: config.Study) -> tuple[config.Objective, ...]:
    """Return the columns that configurations are compared by, the first of which ranks them.

    By default the selection criterion: AUROC of validation images against pseudo-anomalies made of them, or the
    test AUROC where the study says ``oracle``.
    """
    if study.search is not None and study.search.objectives is not None:
        return tuple(study.search.objectives)
    return (criterion(study.selection),)


def criterion(selection: str) -> config.Objective:
    """Return the column that a selection compares: the test AUROC for ``oracle``."""
    return "auroc" if selection == "oracle" else "selection"


def summary_column(objective: str, selection: str) -> str:
    """Return the column of summary.csv in which the mean of an objective stands."""
    return "selection_mean" if objective == criterion(selection) else f"objective_{objective}"


def chosen_by(study: config.Study) -> str:
    """Return by what the winner is chosen, for people."""
    named = study.search is not None and study.search.objectives is not None
    return objectives(study)[0] if named else study.selection


def gain(objective: str, value: float) -> float:
    """Return an objective's value, turned so that higher is better."""
    return -value if objective in LOWER_IS_BETTER else value


def shown(objective: str, value: float) -> str:
    """Return an objective's value for people: a share in percent, else the number."""
    return f"{100 * value:.1f} %" if objective in SHARES else f"{value:.4g}"


def trial_value(record: Mapping[str, Any], reading: Reading, objective: str) -> float:
    """Return a column of a finished trial under a reading of its error matrices."""
    of_reading = record["metrics"][reading.error][reading.aggregation]
    return float(of_reading[objective] if objective in of_reading else record[objective])


def configuration_worth(records: Sequence[Mapping[str, Any]], reading: Reading, columns: Iterable[str]) -> Worth:
    """Return the means over all trials of a configuration; the caller makes sure that none is missing."""
    return tuple(fmean(trial_value(record, reading, column) for record in records) for column in columns)


def lacking(tests: Sequence[tuple[int, int]]) -> str:
    """Return what the tests of trials lack for an AUROC, and in how many of them; an empty string if nothing.

    Args:
        tests: the number of test images and of anomalies among them, for each trial.
    """
    counted = Counter(metrics.lacking(images, anomalies) for images, anomalies in tests)
    return "; ".join(
        what if count == len(tests) else f"{what} in {count} of {len(tests)} trials"
        for what, count in counted.items()
        if what
    )


def require_labels(data: config.Data, selection: str) -> None:
    """Refuse a selection by test labels if a task lacks normal or anomalous test images.

    Raises:
        UserError: it does.
    """
    found = datasets.lacking(data) if selection == "oracle" else {}
    for name, what in found.items():
        raise UserError(
            f"selection: oracle chooses by test labels, but {name} has {what}; add normal images in test/good and "
            f"anomalous ones in test/<defect>, or use selection: pseudo_anomalies"
        )


def pareto_front(worths: Sequence[Worth], columns: Sequence[str]) -> list[bool]:
    """Return which points no other one is better than in an objective without being worse in another."""
    gains = [tuple(gain(column, value) for column, value in zip(columns, worth, strict=True)) for worth in worths]
    return [
        not any(other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in gains)
        for point in gains
    ]
