"""From error matrices to anomaly scores (paper, eqs. 5 to 7), without a network.

A new aggregation is a function from normalised errors [N, K] to scores [N], and a line in :data:`AGGREGATIONS`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from puzzle_study.config.types import Reading, parted

if TYPE_CHECKING:
    from numpy.typing import NDArray

Aggregation = Callable[[Tensor], Tensor]

AGGREGATIONS: Mapping[str, Aggregation] = {
    "min": lambda normalised_NK: normalised_NK.amin(-1),
    "avg": lambda normalised_NK: normalised_NK.mean(-1),
    "max": lambda normalised_NK: normalised_NK.amax(-1),
}
"""By name: the score of each image from its normalised errors [N, K] (eq. 7)."""
DENSE = frozenset({"avg"})
"""Aggregations in which every view matters; in the others most views have no gradient."""
NORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "l2": torch.sqrt,
    "mse": lambda error_NK: error_NK,
}
"""By name: mean squares unchanged, or their roots (eq. 5 over the root of the pixel count)."""
MATRICES = ("validation", "pseudo", "test")
"""Names of a trial's stored error matrices."""
COMPARED = "compared"
"""Name of the validation images' scores to compare pseudo-anomalies with: in the views that these were scored by."""
GOLDEN = (math.sqrt(5) - 1) / 2
READINGS = tuple(Reading(*pair) for pair in itertools.product(NORMS, AGGREGATIONS))
"""Those of all views, which every trial measures."""


def chosen_views(views: int, count: int) -> list[int]:
    """Return which of K views stand for all of them, in ascending order; a longer choice contains every shorter one.

    Similar views are neighbours: permutations are in lexicographic order, flips, shifts and turns in that of a product.
    So the choice walks round their order in steps of the golden ratio, which spread any number of points with gaps of
    at most three lengths (three-distance theorem, Sós 1958). Being the same for all trainings, it compares them alike.

    Measured on 22 trainings on digits and MNIST: with 8 of 23 views, configurations rank about as with all (correlation
    0.92 and 0.86). Permutations far apart in Hamming distance (0.92, 0.92), those that follow the score of all on
    validation images best (0.90, 0.93) and random ones (0.93, 0.85) are not clearly better, and need more than K.

    Args:
        views: K.
        count: how many to choose, at least 1; K or more give all.
    """
    chosen: dict[int, None] = {}
    for step in itertools.count():
        if len(chosen) >= min(count, views):
            return sorted(chosen)
        chosen.setdefault(int(views * ((0.5 + step * GOLDEN) % 1)))
    raise AssertionError


def readings(views: Iterable[int]) -> tuple[Reading, ...]:
    """Return the readings of all views, and those of each of these numbers of views."""
    fewer = itertools.product(sorted(set(views)), NORMS, AGGREGATIONS)
    return READINGS + tuple(Reading.of(error, aggregation, count) for count, error, aggregation in fewer)


def is_known(reading: Reading) -> bool:
    """Whether the norm and the aggregation of a reading exist; ValueError if its number of views is none."""
    known = reading.error in NORMS and parted(reading.aggregation)[0] in AGGREGATIONS
    return known and (reading.views is None or reading.views >= 1)


def aggregated(normalised_NK: Tensor, aggregation: str) -> Tensor:
    """Return the scores [N] by an aggregation of all views or of some, such as ``max of 8``."""
    name, views = parted(aggregation)
    return AGGREGATIONS[name](normalised_NK if views is None else seen_by(normalised_NK, views))


def seen_by(error_NK: Tensor, count: int, views: int | None = None) -> Tensor:
    """Return the columns of the views that stand for all.

    Args:
        error_NK: a matrix with a column for each view, or for those that stand for ``views``.
        count: how many views.
        views: K; None: as many as the matrix has columns.
    """
    columns = error_NK.shape[1]
    if count >= columns:
        return error_NK
    there = chosen_views(views or columns, columns)
    return error_NK[:, [there.index(k) for k in chosen_views(views or columns, count)]].contiguous()


def normed(error_NK: Tensor, error: str) -> Tensor:
    """Return errors in a norm."""
    return NORMS[error](error_NK)


def normalisation(validation_NK: Tensor, error: str) -> Tensor:
    """Return each view's mean error in a norm over the validation images, the divisor of eq. 6, shape [K]."""
    return normed(validation_NK, error).mean(0).clamp_min(torch.finfo(validation_NK.dtype).tiny)


def normalised(error_NK: Tensor, validation_NK: Tensor, error: str) -> Tensor:
    """Return errors in a norm, divided by eq. 6's means, shape [N, K]."""
    return normed(error_NK, error) / normalisation(validation_NK, error)


def scores(error_NK: Tensor, validation_NK: Tensor, reading: Reading) -> Tensor:
    """Return the anomaly scores of images from their mean square errors, shape [N]; 1 is a typical normal image."""
    return aggregated(normalised(error_NK, validation_NK, reading.error), reading.aggregation)


def matrix_scores(arrays: Mapping[str, NDArray[Any]], reading: Reading) -> dict[str, NDArray[Any]]:
    """Return the scores of a trial's images under a reading, float32 [N], by the name of their error matrix.

    Pseudo-anomalies may have been scored by fewer views than the others. They are compared with the validation images
    in the same views, under the name :data:`COMPARED`.
    """
    errors = {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in MATRICES}
    validation_NK, pseudo_NK = errors["validation"], errors["pseudo"]
    views = validation_NK.shape[1]
    pseudo_NK = seen_by(pseudo_NK, reading.views or views, views)
    compared_NK = seen_by(validation_NK, pseudo_NK.shape[1])
    found = {name: scores(errors[name], validation_NK, reading) for name in ("validation", "test")}
    found |= {"pseudo": scores(pseudo_NK, compared_NK, reading), COMPARED: scores(compared_NK, compared_NK, reading)}
    return {name: score_N.numpy() for name, score_N in found.items()}


def weights(normalised_NK: Tensor, aggregation: str) -> Tensor:
    """Return the weight of each view's normalised error in the score: its derivative, shape [N, K]."""
    with torch.enable_grad():
        leaf_NK = normalised_NK.detach().requires_grad_()
        (weight_NK,) = torch.autograd.grad(aggregated(leaf_NK, aggregation).sum(), leaf_NK)
    return weight_NK
