"""Pixel metrics, against a case worked out by hand and against a slow twin."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import label

from puzzle_study.statistics import pixels

MASK = np.zeros((2, 4, 5), dtype=bool)
MASK[0, 0, 0] = MASK[0, 1, 1] = True  # one region: its two pixels touch diagonally
MASK[1, 0, 0] = MASK[1, 3, 1:4] = True  # two regions
"""36 − 2 pixels are normal, and 6 are anomalous, in regions of 2, 1 and 3."""


def test_aupro_of_a_case_worked_out_by_hand() -> None:
    """Scores fall: region of 2 whole, then 17 normal pixels, then the rest.

    34 pixels are normal. Up to a false positive rate of 0 the overlap is (2/2 + 0 + 0) / 3 = 1/3. The 17 normal pixels
    have one score, with the region of 1: the curve goes straight to rate 1/2 and overlap 2/3. At rate 0.3 it is
    1/3 + 0.6 · 1/3 = 8/15, so the area is 0.3 · (1/3 + 8/15) / 2 = 0.13 and AUPRO 0.13 / 0.3 = 13/30.
    """
    map_NHW = np.full(MASK.shape, 0.1, dtype=np.float32)
    normal = np.flatnonzero(~MASK)
    assert len(normal) == 34
    map_NHW.flat[normal[:17]] = 0.5
    map_NHW[0, 0, 0], map_NHW[0, 1, 1] = 0.9, 0.8
    map_NHW[1, 0, 0] = 0.5
    assert pixels.aupro(map_NHW, MASK) == pytest.approx(13 / 30)


def test_pixel_auroc_of_a_case_worked_out_by_hand() -> None:
    """Three anomalous pixels are above all normal ones, three share the score of half of them."""
    map_NHW = np.zeros(MASK.shape, dtype=np.float32)
    map_NHW.flat[np.flatnonzero(~MASK)[:17]] = -1.0
    map_NHW[1, 3, 1:4] = 1.0
    assert pixels.pixel_auroc(map_NHW, MASK) == pytest.approx((3 * 34 + 3 * (17 + 17 / 2)) / (6 * 34))


def test_aupro_is_that_of_a_slow_twin() -> None:
    generator = np.random.default_rng(0)
    mask_NHW = generator.random((3, 20, 20)) > 0.93
    map_NHW = (generator.random((3, 20, 20)) + 0.4 * mask_NHW).astype(np.float32)
    regions = []
    for image in range(3):
        numbered, count = label(mask_NHW[image], structure=np.ones((3, 3)))
        regions += [map_NHW[image][numbered == number] for number in range(1, count + 1)]
    normal = map_NHW[~mask_NHW]
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(map_NHW.ravel().tolist()), reverse=True):
        overlap = np.mean([(region >= threshold).mean() for region in regions])
        curve.append((float((normal >= threshold).mean()), float(overlap)))
    area = 0.0
    for (left, low), (right, high) in pairwise(curve):
        if left >= 0.3:
            break
        if right > 0.3:
            right, high = 0.3, low + (high - low) * (0.3 - left) / (right - left)
        area += (right - left) * (low + high) / 2
    assert pixels.aupro(map_NHW, mask_NHW) == pytest.approx(area / 0.3, abs=1e-9)


@pytest.mark.parametrize("value", [False, True])
def test_one_kind_of_pixels_has_no_value(value: bool) -> None:
    mask_NHW = np.full((1, 4, 4), value)
    map_NHW = np.zeros((1, 4, 4), dtype=np.float32)
    assert (pixels.pixel_auroc(map_NHW, mask_NHW), pixels.aupro(map_NHW, mask_NHW)) == (None, None)
