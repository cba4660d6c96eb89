"""From error matrices to anomaly scores (paper, eqs. 5 to 7). Nothing here needs a network."""

from __future__ import annotations

import torch
from torch import Tensor

from puzzle_study.config import Aggregation, ErrorNorm

AGGREGATIONS: tuple[Aggregation, ...] = ("min", "avg", "max")
ERROR_NORMS: tuple[ErrorNorm, ...] = ("l2", "mse")


def normed(error_NK: Tensor, error: ErrorNorm) -> Tensor:
    """Return mean squares as they are (``mse``), or their roots (``l2``, eq. 5 over the root of the pixel count)."""
    return error_NK if error == "mse" else error_NK.sqrt()


def normalisation(validation_NK: Tensor, error: ErrorNorm) -> Tensor:
    """Return the mean error of each permutation over the validation images, the divisor of eq. 6, shape [K].

    Args:
        validation_NK: mean square errors of the validation images.
        error: norm whose mean is taken.
    """
    return normed(validation_NK, error).mean(0).clamp_min(torch.finfo(validation_NK.dtype).tiny)


def aggregate(normalised_NK: Tensor, aggregation: Aggregation) -> Tensor:
    """Return the score of each image (eq. 7), shape [N]."""
    if aggregation == "avg":
        return normalised_NK.mean(-1)
    return normalised_NK.amin(-1) if aggregation == "min" else normalised_NK.amax(-1)


def scores(error_NK: Tensor, validation_NK: Tensor, *, error: ErrorNorm, aggregation: Aggregation) -> Tensor:
    """Return the anomaly scores of images from their mean square errors, shape [N]; 1 is a typical normal image."""
    return aggregate(normed(error_NK, error) / normalisation(validation_NK, error), aggregation)
