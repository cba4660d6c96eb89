"""Compares AUROCs over shared test images by DeLong's method. This covers images, not trainings.

DeLong, DeLong and Clarke-Pearson (1988) write the error of an AUROC as a sum with one term per image. An image's terms
add up over all AUROCs that use it, so only images are independent; detectors, seeds and classes may share them.
The method needs no resampling and equals the paired bootstrap over the images, without the bootstrap's noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from puzzle_study.statistics.intervals import TAIL, Estimate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Placed:
    """The AUROC of one training and each test image's share of its error; their squares add up to DeLong's variance."""

    auroc: float
    part_N: NDArray[np.float64]
    names: NDArray[np.str_]


@dataclass(frozen=True)
class ImageDifference(Estimate):
    """A difference of mean AUROCs with its 95 % interval over the test images."""

    images: int


def place(scores: ArrayLike, labels: ArrayLike, names: NDArray[np.str_]) -> Placed:
    """Return an AUROC with each image's share of its error.

    Scores [N] have no NaN, labels [N] are True for anomalies, with both kinds; names are the same in every training.
    """
    from scipy.stats import rankdata

    score_N, label_N = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    rank_N, part_N = rankdata(score_N), np.empty(len(score_N))
    auroc = np.nan
    for side, sign in ((~label_N, -1), (label_N, 1)):
        count, others = int(side.sum()), int((~side).sum())
        # The share of the other side that is below; ties count one half.
        below = (rank_N[side] - rankdata(score_N[side])) / others
        placement = below if sign > 0 else 1 - below
        auroc = float(placement.mean())
        # One image of a side says nothing about others.
        part_N[side] = (placement - auroc) / np.sqrt(count * (count - 1)) if count > 1 else np.nan
    return Placed(auroc, part_N, names)


def image_difference(first: Sequence[Sequence[Placed]], second: Sequence[Sequence[Placed]]) -> ImageDifference:
    """Compare two trained detectors over their test images.

    Each side has the trainings of each task; their numbers may differ. Its value is the mean over tasks of the mean
    over trainings. An empty ``second`` gives A alone. The interval covers other test images of this kind, not other
    trainings. There is none if it would be a point: both detectors rank every image alike, or a side has one image.
    """
    import pandas as pd
    from scipy.stats import norm

    value, parts, names = 0.0, [], []
    for sign, side in ((1, first), (-1, second)):
        for trainings in side:
            weight = sign / (len(side) * len(trainings))
            for placed in trainings:
                value += weight * placed.auroc
                parts.append(weight * placed.part_N)
                names.append(placed.names.astype(object))
    image_N, distinct = pd.factorize(np.concatenate(names))
    error = float(np.linalg.norm(np.bincount(image_N, np.concatenate(parts))))
    reach = float(norm.ppf(1 - TAIL)) * error if error > ROUNDING else np.nan
    low, high = np.clip([value - reach, value + reach], -1, 1)
    return ImageDifference(value, float(low), float(high), len(distinct))
