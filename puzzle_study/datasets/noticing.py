"""What is unusual about a study's images and should be said before it starts."""

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
"""Training images, spread over all of them, that stand for the others."""
SIDE = 64
"""To which images are scaled before their channels are compared."""


def lacking(data: config.Data) -> dict[str, str]:
    """Return by normal class what its test lacks for an AUROC, such as ``no test images``; complete ones are left out.

    No image is decoded. Only a set with its own split, such as a folder of the user's, may lack something.

    Raises:
        UserError: the files are not there, or a normal class does not exist.
    """
    if DATASETS[data.name].protocol != "given":
        return {}  # their protocols put both kinds into every test
    found = {}
    for name, unit in loading.used_units(data).items():
        if isinstance(unit, FilesUnit):
            anomalous = [image.class_name != "good" for image in unit.images if image.part == "test"]
            if what := metrics.lacking(len(anomalous), sum(anomalous)):
                found[name] = what
    return found


def notes(data: config.Data) -> list[str]:
    """Return what is unusual about the images of ``data``, in sentences; up to 32 images are decoded.

    Raises:
        UserError: the files are not there, or a normal class does not exist.
    """
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
            f"the training images are gray but are read as colour (all channels are equal in the {looked_at} "
            f"that were looked at); set data.grayscale: true, so that one channel is learnt"
        )
    return found


def gray_as_colour(data: config.Data) -> int:
    """Return how many gray training images are read as colour, of up to 32 that are decoded; 0 unless all are gray.

    Raises:
        UserError: the files are not there, or a normal class does not exist.
    """
    if data.channels != 3:
        return 0
    paths = _training_files(loading.used_units(data).values())
    pixels = [one for one in decode_all(paths, Sizing(SIDE, 3)) if not isinstance(one, UserError)]
    return len(paths) if pixels and all((one_CHW == one_CHW[:1]).all() for one_CHW in pixels) else 0


def training_sizes(data: config.Data, spec: TaskSpec) -> OriginalSizes | None:
    """Return how large a task's training image files are, judged by up to 32 of them; None if it has no image files.

    Raises:
        UserError: a file is missing or damaged.
    """
    units = finding.units(data.name, data.root)
    return OriginalSizes.of(_training_files([units.get(spec.normal_class) or units[""]]))


def _training_files(units: Iterable[Unit]) -> list[Path]:
    """Return the image files that are looked at: up to 32 that may be trained on, spread evenly over all of them."""
    paths = [
        unit.base / image.name
        for unit in units
        if isinstance(unit, FilesUnit)
        for image in unit.images
        if image.part != "test"
    ]
    index = np.unique(np.linspace(0, len(paths) - 1, min(LOOKED_AT, len(paths))).round().astype(int))
    return [paths[i] for i in index]
