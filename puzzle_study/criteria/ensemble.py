"""No choice: several candidates together, by the mean of their normalised ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from puzzle_study.criteria.base import Candidate, Numbers, Scored, Weights
from puzzle_study.criteria.borda import Borda
from puzzle_study.criteria.ranks import best_first

TOP = 5
"""Candidates that are used together, at most one of each configuration."""
TINY = float(np.finfo(np.float32).tiny)
KNOTS = 101
"""Quantiles between which a normalised rank is interpolated."""


class Ensemble(Borda):
    """The first :data:`TOP` configurations by Borda count; an image's score is the mean of its normalised ranks."""

    title = "ensemble"
    meaning = f"mean of the normalised ranks of the first {TOP} configurations by Borda count"
    blends = True

    @classmethod
    def goodness(cls, candidates: Sequence[Candidate], weights: Weights) -> Numbers:
        """Return the mean rank in [0, 1], [M]; NaN with a single configuration, of which there is no ensemble."""
        if len({candidate.configuration for candidate in candidates}) < 2:
            return np.full(len(candidates), np.nan)
        return super().goodness(candidates, weights)


def members(configurations: Sequence[str], goodness_M: Numbers) -> list[int]:
    """Return which of M candidates are used together, the best first: one reading of each configuration."""
    first: dict[str, int] = {}
    for place in best_first(goodness_M):
        first.setdefault(configurations[place], place)
    return list(first.values())[:TOP]


def knots(validation_N: Numbers, pseudo_N: Numbers) -> Numbers:
    """Return the quantiles of the scores of validation images and pseudo-anomalies, by which ranks are normalised."""
    return np.asarray(np.quantile(np.concatenate((validation_N, pseudo_N)), np.linspace(0, 1, KNOTS)))


def normalised_rank(score_N: Numbers, knot_K: Numbers) -> Numbers:
    """Return the rank of scores among those that the knots are of, 0 to 1; beyond the last it grows with the score."""
    rank_N = np.interp(score_N, knot_K, np.linspace(0, 1, len(knot_K)))
    scale = max(float(knot_K[-1] - knot_K[0]), TINY)
    return np.asarray(rank_N + np.maximum(score_N - knot_K[-1], 0) / scale)


def blended(runs: Sequence[Scored]) -> Scored:
    """Return the scores of an ensemble from those of its members on the same task and seed.

    Each member's normalised ranks are divided by their mean over the validation images (eq. 6), and averaged.
    """
    parts: dict[str, list[Numbers]] = {"validation_N": [], "pseudo_N": [], "test_N": []}
    for run in runs:
        knot_K = knots(run.validation_N, run.pseudo_N)
        mean = max(float(normalised_rank(run.validation_N, knot_K).mean()), TINY)
        for name, found in parts.items():
            found.append(normalised_rank(getattr(run, name), knot_K) / mean)
    return replace(runs[0], **{name: np.mean(found, axis=0) for name, found in parts.items()}, earlier=())
