"""Unusual properties of a study's images, reported before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from puzzle_study import config
from puzzle_study.datasets import finding, loading
from puzzle_study.datasets.catalogue import DATASETS
from puzzle_study.datasets.files_unit import FilesUnit
from puzzle_study.datasets.images import decode_all
from puzzle_study.datasets.original_sizes import OriginalSizes
from puzzle_study.datasets.records import Sizing, Unit
from puzzle_study.datasets.task import TaskSpec
from puzzle_study.errors import UserError
from puzzle_study.statistics import metrics

LOOKED_AT = 32
"""Number of training images that are checked, spread over all of them."""
SIDE = 64
"""Size to which images are scaled before their channels are compared."""


def lacking(data: config.Data) -> dict[str, str]:
    """Return, for each normal class without an AUROC, what its test lacks, such as ``no test images``.

    No image is decoded. Only a set with its own split, such as a user's folder, may lack something.

    Raises:
        UserError: the files are missing, or a normal class does not exist.
    """
    if DATASETS[data.name].protocol != "given":
        return {}  # these protocols put both kinds into every test
    found = {}
    for name, unit in loading.used_units(data).items():
        if isinstance(unit, FilesUnit):
            anomalous = [image.class_name != "good" for image in unit.images if image.part == "test"]
            if what := metrics.lacking(len(anomalous), sum(anomalous)):
                found[name] = what
    return found


def notes(data: config.Data) -> list[str]:
    """Return sentences on what is unusual about the images of ``data``; decodes up to 32 images."""
    found, by_kind = list[str](), dict[str, list[str]]()
    for name, what in lacking(data).items():
        by_kind.setdefault(what, []).append(name)
    found += [
        f"{what} ({', '.join(names)}): no AUROC can be measured there; training, selection by pseudo-anomalies, "
        f"calibration and scoring need none"
        for what, names in by_kind.items()
    ]
    if looked_at := gray_as_colour(data):
        found.append(
            f"the training images are gray but are read as colour (all channels are equal in "
            f"{looked_at} checked images); set data.grayscale: true to learn one channel"
        )
    return found


def gray_as_colour(data: config.Data) -> int:
    """Return how many gray training images are read as colour, of up to 32 that are decoded; 0 unless all are gray."""
    if data.channels != 3:
        return 0
    paths = _training_files(loading.used_units(data).values())
    pixels = [one for one in decode_all(paths, Sizing(SIDE, 3)) if not isinstance(one, UserError)]
    return len(paths) if pixels and all((one_CHW == one_CHW[:1]).all() for one_CHW in pixels) else 0


def training_sizes(data: config.Data, spec: TaskSpec) -> OriginalSizes | None:
    """Return the sizes of a task's training image files, from up to 32 of them; None without image files."""
    units = finding.units(data.name, data.root)
    return OriginalSizes.of(_training_files([units.get(spec.normal_class) or units[""]]))


def _training_files(units: Iterable[Unit]) -> list[Path]:
    """Return the image files to check: up to 32 possible training images, spread evenly over all of them."""
    paths = [
        unit.base / image.name
        for unit in units
        if isinstance(unit, FilesUnit)
        for image in unit.images
        if image.part != "test"
    ]
    index = np.unique(np.linspace(0, len(paths) - 1, min(LOOKED_AT, len(paths))).round().astype(int))
    return [paths[i] for i in index]
