"""Ranks and their agreement, for criteria that compare candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from puzzle_study.criteria.base import Numbers


def best_first(goodness_M: Numbers) -> list[int]:
    """Return the places from the best; what cannot be told comes last, and earlier ones win ties."""
    return [int(place) for place in np.argsort(-np.nan_to_num(goodness_M, nan=-np.inf), kind="stable")]


def mean_rank(values_KM: Numbers, weight_K: Numbers) -> Numbers:
    """Return the weighted mean over K of the ranks of M values, from 0 for the lowest to 1; ties share one."""
    from scipy.stats import rankdata

    most = max(values_KM.shape[1] - 1, 1)
    return np.asarray(np.average((rankdata(values_KM, axis=1) - 1) / most, axis=0, weights=weight_K))


def correlations(values_MN: Numbers) -> Numbers:
    """Return Spearman's rank correlations of M rows, [M, M]; that of a constant row is NaN."""
    from scipy.stats import rankdata

    rank_MN = rankdata(values_MN, axis=1)
    rank_MN -= rank_MN.mean(1, keepdims=True)
    length_M1 = np.linalg.norm(rank_MN, axis=1, keepdims=True)
    unit_MN = np.divide(rank_MN, length_M1, out=np.full_like(rank_MN, np.nan), where=length_M1 > 0)
    return np.asarray(unit_MN @ unit_MN.T)


def correlation(first: Sequence[float] | Numbers, second: Sequence[float] | Numbers) -> float:
    """Return Spearman's rank correlation over the places where both are numbers, NaN of fewer than three."""
    pair = np.array([first, second], dtype=np.float64)
    pair = pair[:, np.isfinite(pair).all(0)]
    return float(correlations(pair)[0, 1]) if pair.shape[1] > 2 else float("nan")


def mean_off(matrix_MM: Numbers, counts_MM: npt.NDArray[np.bool_]) -> Numbers:
    """Return the mean of each row over the columns that count and are numbers, NaN without any."""
    counts = counts_MM & np.isfinite(matrix_MM)
    total = np.where(counts, matrix_MM, 0).sum(1)
    return np.asarray(np.divide(total, counts.sum(1), out=np.full(len(total), np.nan), where=counts.any(1)))
