"""Masks of test images, from the folder ``ground_truth`` of MVTec AD's layout.

Shape legend: N images, H = W = size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from puzzle_study.datasets import cache
from puzzle_study.datasets.files_unit import FilesUnit
from puzzle_study.datasets.records import Sizing, Unit

SUFFIX = "_mask"
UNKNOWN = -1


def masks_of(
    dataset: str, unit: Unit, size: int, names: Sequence[str], anomalous: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int8] | None:
    """Return images' masks: 1 anomalous, 0 normal, −1 everywhere if an anomalous image has none; [N, H, W].

    The mask of ``test/KIND/NAME.png`` is ``ground_truth/KIND/NAME_mask.png`` or ``NAME.png``. Masks are scaled like
    images; a pixel is anomalous if at least half of it is. Normal images need no mask.

    Args:
        dataset: name of the set.
        unit: the part of the set with the images.
        size: of the images.
        names: of the images, as paths below the unit's base.
        anomalous: whether each image is anomalous.

    Returns:
        The masks, or None if no image has one.

    Raises:
        UserError: a mask is damaged.
    """
    listed = unit.masks() if isinstance(unit, FilesUnit) else ()
    if not isinstance(unit, FilesUnit) or not listed:
        return None
    masks = FilesUnit(unit.base, lambda: listed, name=f"{unit.name}-masks", where=unit.where)
    decoded, _ = cache.load(dataset, masks, Sizing(size=size, channels=1))
    place = {_key(name): number for number, name in enumerate(decoded.names)}
    found = [place.get(_key(name)) if odd else None for name, odd in zip(names, anomalous.tolist(), strict=True)]
    if not any(number is not None for number in found):
        return None
    # White may be 255 or 1.
    white = int(decoded.images_NCHW.max())
    result_NHW = np.where(anomalous, UNKNOWN, 0).astype(np.int8)[:, None, None].repeat(size, 1).repeat(size, 2)
    for image, number in enumerate(found):
        if number is not None:
            result_NHW[image] = 2 * decoded.images_NCHW[number, 0].astype(np.int16) > white
    return result_NHW


def _key(name: str) -> tuple[str, str]:
    """Return the kind and name that an image and its mask share."""
    path = PurePosixPath(name)
    return path.parent.name, path.stem.removesuffix(SUFFIX)
