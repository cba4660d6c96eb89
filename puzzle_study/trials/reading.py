"""What the error matrices of a trial say under each reading of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from puzzle_study.config import Reading
from puzzle_study.criteria.base import Judging, Scored, kind_column
from puzzle_study.criteria.expecting import kind_weights
from puzzle_study.criteria.registry import CRITERIA
from puzzle_study.detectors import scoring
from puzzle_study.inference.calibration import flagged_shares
from puzzle_study.results import Results
from puzzle_study.statistics import metrics
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec


def metrics_of(
    arrays: Mapping[str, np.ndarray], kinds: tuple[str, ...], labels: np.ndarray, readings: Sequence[Reading]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return test metrics and criteria by norm and aggregation.

    Args:
        arrays: error matrices ``validation``, ``pseudo`` and ``test``.
        kinds: the kind of each pseudo-anomaly.
        labels: of the test images, True for anomalies.
        readings: of the matrices.
    """
    by_norm: dict[str, dict[str, dict[str, Any]]] = {}
    weights = kind_weights()  # a study that expects something weights the kinds when it reads the record
    for reading in readings:
        found = scoring.matrix_scores(arrays, reading)
        test_N = found["test"]
        error = float(arrays["validation"].mean())
        scored = Scored(found[scoring.COMPARED], found["pseudo"], kinds, test_N, labels, error)
        values: dict[str, Any] = {
            criterion.column: criterion.value(scored, weights)
            for criterion in CRITERIA.values()
            if issubclass(criterion, Judging)
        }
        values |= {kind_column(kind): value for kind, value in scored.by_kind.items()}
        evaluation = metrics.evaluate(test_N, labels, seed=0)
        values |= asdict(evaluation) if evaluation else dict.fromkeys(f.name for f in fields(metrics.Evaluation))
        values |= flagged_shares(found["validation"], test_N, labels)
        by_norm.setdefault(reading.error, {})[reading.aggregation] = values
    return by_norm


def completed(record: Record, spec: TrialSpec, results: Results) -> Record | None:
    """Return a record with all readings of a specification, from its error matrices if it was made for fewer.

    None: they are not there, so the trial has to run again.
    """
    wanted = scoring.readings(spec.numbers_of_views) if record.finished else ()
    lacking = [reading for reading in wanted if reading.aggregation not in record.metrics.get(reading.error, {})]
    # Tests and other makers of records may know fewer readings of all views.
    lacking = [reading for reading in lacking if reading.views is not None]
    if not lacking:
        return record
    if not results.errors_file(spec.key).exists():
        return None
    arrays = results.errors(spec.key)
    more = metrics_of(arrays, tuple(arrays["pseudo_kind"].tolist()), arrays["labels"].astype(bool), lacking)
    return replace(record, metrics={error: {**of, **more.get(error, {})} for error, of in record.metrics.items()})
