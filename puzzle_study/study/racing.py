"""The race of a search: is a configuration worse than its rival on the trials that both have?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from puzzle_study.config import Reading
from puzzle_study.trials.record import Record
from puzzle_study.trials.worth import gain, trial_value


@dataclass(frozen=True)
class Verdict:
    """Outcome of one test.

    Attributes:
        lost: whether the configuration is worse than its rival under every reading.
        p: the largest one-sided p-value over the readings.
        differences: mean of the configuration's ``objective`` minus the rival's, by reading.
    """

    lost: bool
    p: float
    differences: Mapping[Reading, float]
    objective: str

    def __str__(self) -> str:
        best = max(self.differences.values(), key=lambda value: gain(self.objective, value))
        return f"{self.objective} {best:+.4g}, paired signed-rank p {self.p:.3f}"


def compare(
    records: Sequence[Record],
    rival_records: Sequence[Record],
    readings: Sequence[Reading],
    *,
    rival_reading: Reading,
    objective: str,
    p: float,
) -> Verdict:
    """Test by Wilcoxon's one-sided signed-rank test whether a configuration is worse than its rival under ``readings``.

    As in Optuna's WilcoxonPruner, a configuration that is not worse on average never loses, and zero differences are
    split between the signs. The records are finished trials of the same tasks and seeds in the same order. Every trial
    is a pair, also seeds of one class: the question is whether the configuration is worse on these classes.
    ``p``, the level below which it loses, is not an error rate for other classes.
    """
    rival = np.array([trial_value(record, rival_reading, objective) for record in rival_records])
    differences, values = {}, []
    for reading in readings:
        change = np.array([trial_value(record, reading, objective) for record in records]) - rival
        differences[reading] = float(change.mean())
        gains = np.array([gain(objective, value) for value in change])
        worse = gains.mean() < 0
        values.append(float(stats.wilcoxon(gains, alternative="less", zero_method="zsplit").pvalue) if worse else 1.0)
    return Verdict(max(values) < p, max(values), differences, objective)
