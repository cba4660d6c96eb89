"""The 1,797 handwritten digits of scikit-learn: 8×8 pixels, values 0 to 16."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puzzle_study.datasets.arrays_unit import decoded_arrays
from puzzle_study.datasets.catalogue import DatasetInfo
from puzzle_study.datasets.protocols import stratified
from puzzle_study.datasets.records import Decoded, Inspection, Sizing

SPLIT_SEED = 0
"""The split into training and test images belongs to the set, as with MNIST, and does not depend on ``split_seed``."""
TEST_IMAGES = 599


@dataclass(frozen=True)
class DigitsUnit:
    """All digits; about two thirds of each class are training images."""

    name: str = ""
    base: Path | None = None
    files: tuple[str, ...] = ()
    where: str = "digits"

    @property
    def origin(self) -> str:
        """Version of scikit-learn, which contains the images."""
        return f"scikit-learn {importlib.metadata.version('scikit-learn')}"

    def decode(self, sizing: Sizing, digests: Mapping[str, str]) -> Decoded:
        """Scale 0...16 to 0...255 and enlarge."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images_NHWC = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
        classes = tuple(str(label) for label in bunch.target)
        parts = np.full(len(classes), "train", dtype=object)
        parts[stratified(classes, TEST_IMAGES, SPLIT_SEED)] = "test"
        names = [f"digits/{number:04d}" for number in range(len(classes))]
        return decoded_arrays(images_NHWC, sizing, names=names, classes=classes, parts=tuple(parts))

    def inspect(self) -> Inspection:
        """Read the images; scikit-learn raises if its own file is damaged."""
        return Inspection(counts=Counter(self.decode(Sizing(size=16, channels=1), {}).parts), damaged=())


def find(place: Path, info: DatasetInfo) -> dict[str, DigitsUnit]:
    """Return the only unit, which needs no folder."""
    return {"": DigitsUnit()}
