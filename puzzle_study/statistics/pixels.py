"""How well anomaly maps find anomalous pixels: pixel AUROC and AUPRO.

Shape legend: N images, H and W pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FPR_LIMIT = 0.3


def pixel_auroc(map_NHW: npt.NDArray[np.float32], mask_NHW: npt.NDArray[np.bool_]) -> float | None:
    """Return the AUROC of all pixels of all images, or None if they are all normal or all anomalous.

    Args:
        map_NHW: anomaly maps, higher for anomalous pixels.
        mask_NHW: True for anomalous pixels.
    """
    from sklearn.metrics import roc_auc_score

    if mask_NHW.all() or not mask_NHW.any():
        return None
    return float(roc_auc_score(mask_NHW.ravel(), map_NHW.ravel()))


def aupro(map_NHW: npt.NDArray[np.float32], mask_NHW: npt.NDArray[np.bool_]) -> float | None:
    """Return the area under the per-region overlap up to a false positive rate of 30 %, divided by it (Bergmann 2020).

    The overlap at a threshold is the share of a region's pixels that reach it, averaged over all regions of
    all images. Pixels of a region touch each other, also diagonally. The curve is interpolated linearly.

    Args:
        map_NHW: anomaly maps, higher for anomalous pixels.
        mask_NHW: True for anomalous pixels.

    Returns:
        The area in [0, 1], or None if all pixels are normal or all anomalous.
    """
    from scipy.ndimage import label
    from sklearn.metrics import auc, roc_curve

    if mask_NHW.all() or not mask_NHW.any():
        return None
    touching = np.zeros((3, 3, 3), dtype=bool)
    touching[1] = True  # within an image, not from one to the next
    region_NHW, _ = label(mask_NHW, structure=touching)
    # Each region weighs the same: the weighted true positive rate is the mean overlap.
    weight_NHW = np.where(mask_NHW, 1 / np.bincount(region_NHW.ravel())[region_NHW], 1.0)
    fpr, overlap, _ = roc_curve(mask_NHW.ravel(), map_NHW.ravel(), sample_weight=weight_NHW.ravel())
    inside = fpr < FPR_LIMIT
    at_limit = np.interp(FPR_LIMIT, fpr, overlap)
    return float(auc([*fpr[inside], FPR_LIMIT], [*overlap[inside], at_limit]) / FPR_LIMIT)
