"""Metrics of anomaly scores: AUROC, average precision, FPR at a TPR, and intervals.

Anomalies are the positive class everywhere, and a higher score means more anomalous. The AUROC is never folded at
one half, so a detector that ranks the wrong way round has a value below 0.5 and is marked ``inverted``.

Everywhere ``scores`` are the anomaly scores [N] and ``labels`` are True or 1 for anomalies [N]. A ValueError means that
a score is NaN, the lengths differ, or, except in :func:`evaluate`, that normal or anomalous images are missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
_CHUNK_DRAWS = 2_000_000


@dataclass(frozen=True)
class Evaluation:
    """All reported metrics of one test set; all shares are in [0, 1]."""

    auroc: float
    auroc_low: float
    auroc_high: float
    inverted: bool
    average_precision: float
    fpr_at_tpr95: float
    fpr_at_tpr99: float
    fpr_at_tpr995: float
    n: int
    n_anomalies: int


def lacking(images: int, anomalies: int) -> str:
    """Return what a test set lacks for an AUROC; empty if it has both kinds of images."""
    if not images:
        return "no test images"
    if not anomalies:
        return "no anomalies in the test images"
    return "no normal test images" if anomalies == images else ""


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the area under the ROC curve: P(anomaly scores higher than normal) + ½ P(both score the same).

    >>> auroc([1.0, 1.2, 3.0], [False, False, True])
    1.0
    """
    from sklearn.metrics import roc_auc_score

    score_N, label_N = _checked(scores, labels)
    return float(roc_auc_score(label_N, score_N))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the average precision, Σ (recall step × precision) over the thresholds; anomalies are positive.

    A detector that knows nothing reaches the share of anomalies, not one half.
    """
    from sklearn.metrics import average_precision_score

    score_N, label_N = _checked(scores, labels)
    return float(average_precision_score(label_N, score_N))


def fpr_at_tpr(scores: ArrayLike, labels: ArrayLike, tpr: float) -> float:
    """Return the share of normal images flagged if at least the share ``tpr`` of the anomalies is caught.

    An image is flagged if its score reaches the threshold (score ≥ t). Among the thresholds whose true
    positive rate is at least ``tpr``, in (0, 1], the smallest false positive rate counts; nothing is interpolated. That
    threshold is the k-th highest anomalous score, k = ⌈tpr · number of anomalies⌉. The paper does not say how it made
    its Table 10; the authors' code takes the threshold with the nearest true positive rate, even a smaller one.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must be in (0, 1], got {tpr}")
    score_N, label_N = _checked(scores, labels)
    anomalous = np.sort(score_N[label_N])[::-1]
    # Rounded first: 0.07 · 100 is 7.000000000000001 in floating point, and that must not ask for 8 anomalies.
    caught = max(1, math.ceil(round(tpr * len(anomalous), 9)))
    return float(np.mean(score_N[~label_N] >= anomalous[caught - 1]))


def bootstrap_auroc(scores: ArrayLike, labels: ArrayLike, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """Return the ends of a percentile interval for the AUROC at 95 % confidence.

    Each resample draws as many normal and as many anomalous images as there are (stratified).
    The interval covers the draw of the test images, not the training. If the two classes do not
    overlap, every resample has the same AUROC and the interval is a point, which says nothing about unseen images.
    """
    value_R = _resampled_auroc(*_checked(scores, labels), seed, resamples)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(value_R, [tail, 1 - tail])
    return float(low), float(high)


def wilson(count: int, n: int) -> tuple[float, float]:
    """Return the ends of Wilson's interval for a share of n ≥ 1 images at 95 % confidence (Wilson, 1927)."""
    from scipy.stats import binomtest

    ends = binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(ends.low), float(ends.high)


def evaluate(scores: ArrayLike, labels: ArrayLike, *, seed: int = 0, resamples: int = 1000) -> Evaluation | None:
    """Return all metrics of one test set, or None if it has no normal or no anomalous images."""
    score_N, label_N = _vectors(scores, labels)
    if lacking(len(label_N), int(label_N.sum())):
        return None
    low, high = bootstrap_auroc(score_N, label_N, seed, resamples)
    return Evaluation(
        auroc=auroc(score_N, label_N),
        auroc_low=low,
        auroc_high=high,
        inverted=high < 0.5,
        average_precision=average_precision(score_N, label_N),
        fpr_at_tpr95=fpr_at_tpr(score_N, label_N, 0.95),
        fpr_at_tpr99=fpr_at_tpr(score_N, label_N, 0.99),
        fpr_at_tpr995=fpr_at_tpr(score_N, label_N, 0.995),
        n=len(score_N),
        n_anomalies=int(label_N.sum()),
    )


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores and labels of both kinds of images as arrays; raise ValueError if they are invalid."""
    score_N, label_N = _vectors(scores, labels)
    if label_N.all() or not label_N.any():
        raise ValueError(f"both normal and anomalous images are needed, got {int(label_N.sum())} of {len(label_N)}")
    return score_N, label_N


def _vectors(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores and labels as arrays of one length without NaN; raise ValueError if they are invalid."""
    score_N = np.asarray(scores, dtype=np.float64)
    label_N = np.asarray(labels).astype(bool)
    if score_N.ndim != 1 or score_N.shape != label_N.shape:
        raise ValueError(f"scores and labels must be two vectors of one length, got {score_N.shape}, {label_N.shape}")
    if np.isnan(score_N).any():
        raise ValueError(f"{int(np.isnan(score_N).sum())} of {len(score_N)} scores are NaN")
    # scikit-learn refuses infinite scores, which rank like any other, so they become the largest finite numbers.
    return np.nan_to_num(score_N, posinf=np.finfo(np.float64).max, neginf=np.finfo(np.float64).min), label_N


def _resampled_auroc(
    score_N: NDArray[np.float64], label_N: NDArray[np.bool_], seed: int, resamples: int
) -> NDArray[np.float64]:
    """Return the AUROC of each stratified resample, from counts per distinct score."""
    distinct, group_N = np.unique(score_N, return_inverse=True)
    groups = len(distinct)
    anomalous, normal = group_N[label_N], group_N[~label_N]
    # One stream per class, so that draws do not depend on the chunks of resamples.
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2)]
    chunk = max(1, _CHUNK_DRAWS // len(score_N))
    values = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        positive_RG = _drawn_counts(anomalous, groups, size, streams[0])
        negative_RG = _drawn_counts(normal, groups, size, streams[1])
        below_RG = negative_RG.cumsum(1) - negative_RG / 2
        values.append((positive_RG * below_RG).sum(1))
    return np.concatenate(values) / (len(anomalous) * len(normal))


def _drawn_counts(
    group_N: NDArray[np.intp], groups: int, size: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw N images with replacement, ``size`` times; return how often each score was drawn [size, groups]."""
    drawn_RN = group_N[generator.integers(len(group_N), size=(size, len(group_N)))]
    drawn_RN += np.arange(size)[:, None] * groups
    return np.bincount(drawn_RN.ravel(), minlength=size * groups).reshape(size, groups)
