"""What a configuration is worth: the selection criterion, or the columns that a search names as its objectives."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from puzzle_study import config, datasets
from puzzle_study.config import Reading
from puzzle_study.config.forms import Form
from puzzle_study.criteria.base import OfKinds, Weights, kind_column
from puzzle_study.criteria.kinds.registry import KINDS
from puzzle_study.criteria.registry import CRITERIA
from puzzle_study.errors import UserError
from puzzle_study.statistics import metrics
from puzzle_study.trials.record import Metrics, Record

LOWER_IS_BETTER = frozenset(
    {
        "fpr_at_tpr95",
        "fpr_at_tpr99",
        "fpr_at_tpr995",
        "corrupted_fpr",
        "val_error",
        "images_seen",
        "seconds",
        "train_seconds",
        "score_seconds",
    }
)
SHARES = frozenset(
    (*config.NEED_TEST_LABELS, "selection", "worst_kind", "robust_selection", "corrupted_selection", "corrupted_fpr")
)

Worth = tuple[float, ...]
"""Mean of each objective over the trials of a configuration, in the order of the objectives."""


def readings(study: config.Study, detector: str) -> list[Reading]:
    """Return the readings of a detector that may win: its own, or every value of the axes that need no training."""
    space, form = study.search.space if study.search else {}, Form.of_study(study)
    own = study.detectors[detector].reading
    found = []
    free = {name.rpartition(".")[2]: f"{form.prefix(detector)}{name}" for name in study.detectors[detector].FREE}
    for name, value in own.settings.items():
        axis = space.get(free.get(name, ""))
        found.append(_every(axis) if axis else (value,))
    return [Reading.of(*values) for values in itertools.product(*found)]


def _every(axis: config.Axis) -> Sequence[Any]:
    """Return every value of an axis that needs no training."""
    return range(axis.values[0], axis.values[1] + 1) if axis.kind == "int_uniform" else axis.values


def objectives(study: config.Study) -> tuple[str, ...]:
    """Return the columns that configurations are compared by; the first one ranks them. Default: the selection's."""
    if study.search is not None and study.search.objectives is not None:
        return tuple(study.search.objectives)
    return (criterion(study.selection),)


def criterion(selection: str) -> str:
    """Return the column that a selection compares: the test AUROC for ``oracle``."""
    return CRITERIA[selection].column


def summary_column(objective: str, selection: str) -> str:
    """Return the column of summary.csv in which the mean of an objective stands."""
    return "selection_mean" if objective == criterion(selection) else f"objective_{objective}"


def judged(record: Record, weights: Weights) -> Record:
    """Return a record as a study reads it that weights the kinds of pseudo-anomalies."""
    criteria = [criterion for criterion in CRITERIA.values() if issubclass(criterion, OfKinds)]

    def weighted(values: Metrics) -> Metrics:
        by_kind = {kind: float(value) for kind in KINDS if (value := values.get(kind_column(kind))) is not None}
        return {**values, **{one.column: one.of_kinds(by_kind, weights) for one in criteria if by_kind}}

    metrics = {
        error: {name: weighted(values) for name, values in by_aggregation.items()}
        for error, by_aggregation in record.metrics.items()
    }
    return replace(record, metrics=metrics)


def chosen_by(study: config.Study) -> str:
    """Return what the winner is chosen by, for people."""
    named = study.search is not None and study.search.objectives is not None
    return objectives(study)[0] if named else study.selection


def gain(objective: str, value: float) -> float:
    """Return an objective's value, turned so that higher is better."""
    return -value if objective in LOWER_IS_BETTER else value


def shown(objective: str, value: float) -> str:
    """Return an objective's value for people: a share in percent, else the number."""
    return f"{100 * value:.1f} %" if objective in SHARES else f"{value:.4g}"


def configuration_worth(records: Sequence[Record], reading: Reading, columns: Iterable[str]) -> Worth:
    """Return the means over all trials of a configuration; the caller makes sure that none is missing."""
    return tuple(fmean(trial_value(record, reading, column) for record in records) for column in columns)


def trial_value(record: Record, reading: Reading, objective: str) -> float:
    """Return a column of a finished trial under a reading of its error matrices, NaN if it has none."""
    value = record.value(reading, objective)
    return math.nan if value is None else value


def lacking(tests: Sequence[tuple[int, int]]) -> str:
    """Return what test sets lack for an AUROC, and in how many trials, from the images and anomalies of each; or ''."""
    counted = Counter(metrics.lacking(images, anomalies) for images, anomalies in tests)
    return "; ".join(
        what if count == len(tests) else f"{what} in {count} of {len(tests)} trials"
        for what, count in counted.items()
        if what
    )


def require_labels(data: config.Data, selection: str) -> None:
    """Refuse a selection by test images if a task lacks them, and one by test labels if it lacks one of both sorts.

    Raises:
        UserError: it does.
    """
    criterion = CRITERIA[selection]
    found = datasets.lacking(data) if criterion.uses_labels or criterion.transductive else {}
    for name, what in found.items():
        if criterion.transductive and what == metrics.lacking(0, 0):
            raise UserError(
                f"selection: {selection} compares test images, and {name} has none; add images in test/good or "
                f"test/<any name>, or use selection: pseudo_anomalies"
            )
        if not criterion.uses_labels:
            continue
        raise UserError(
            f"selection: {selection} chooses by test labels, but {name} has {what}; add normal images in test/good and "
            f"anomalous ones in test/<defect>, or use selection: pseudo_anomalies"
        )


def pareto_front(worths: Sequence[Worth], columns: Sequence[str]) -> list[bool]:
    """Return for each point whether no other one is better in an objective without being worse in another."""
    gains = [tuple(gain(column, value) for column, value in zip(columns, worth, strict=True)) for worth in worths]
    return [
        not any(other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in gains)
        for point in gains
    ]
