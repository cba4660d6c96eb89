"""Image sets as one-class problems: which normal, validation and test images a detector is given.

``task_specs`` names the problems of a study file's ``data`` section, ``load_task`` loads one of them
and ``fingerprint`` tells whether the images are still the same. Readers of the original layouts,
the cache of decoded images and the protocols live in modules of their own; importing this package
loads neither NumPy nor PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from puzzle_study.datasets.catalogue import DATASETS, DatasetInfo
from puzzle_study.datasets.task import SplitSizes, Task, TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from puzzle_study import config
    from puzzle_study.datasets.original_sizes import OriginalSizes

__all__ = [
    "DATASETS",
    "DatasetInfo",
    "SplitSizes",
    "Task",
    "TaskSpec",
    "fingerprint",
    "lacking",
    "load_task",
    "notes",
    "split_sizes",
    "stratified",
    "task_specs",
    "training_sizes",
]


def task_specs(data: config.Data) -> list[TaskSpec]:
    """Name the one-class problems of ``data``, in a fixed order.

    Raises:
        UserError: the files are not there, or a normal class does not exist.
    """
    from puzzle_study.datasets import loading

    return loading.task_specs(data)


def load_task(data: config.Data, spec: TaskSpec) -> Task:
    """Load one problem; the same ``data`` (with its ``split_seed``) and ``spec`` give the same tensors.

    Raises:
        UserError: a file is missing, damaged or unreadable, or a class has too few images for its split.
    """
    from puzzle_study.datasets import loading

    return loading.load_task(data, spec)


def split_sizes(data: config.Data, spec: TaskSpec) -> SplitSizes:
    """Return how many images :func:`load_task` would give; copies of zoom augmentation count.

    Raises:
        UserError: as :func:`load_task`.
    """
    from puzzle_study.datasets import loading

    return loading.split_sizes(data, spec)


def fingerprint(data: config.Data) -> str:
    """Return 16 hexadecimal digits over the decoded images, names and classes that ``data`` uses.

    The first call on a set decodes it into the cache; later ones compare the files' sizes and times.

    Raises:
        UserError: a file is missing, damaged or unreadable.
    """
    from puzzle_study.datasets import loading

    return loading.fingerprint(data)


def lacking(data: config.Data) -> dict[str, str]:
    """Return by normal class what its test lacks for an AUROC, such as ``no test images``; classes with both left out.

    No image is decoded. Only a set that brings its own split, such as a folder of the user's, may lack something.

    Raises:
        UserError: the files are not there, or a normal class does not exist.
    """
    from puzzle_study.datasets import noticing

    return noticing.lacking(data)


def notes(data: config.Data) -> list[str]:
    """Return what is unusual about the images of ``data``, in sentences; up to 32 images are decoded.

    Raises:
        UserError: the files are not there, or a normal class does not exist.
    """
    from puzzle_study.datasets import noticing

    return noticing.notes(data)


def training_sizes(data: config.Data, spec: TaskSpec) -> OriginalSizes | None:
    """Return how large the training image files of a task are, by up to 32 of them; None if it has no image files.

    Raises:
        UserError: a file is missing or damaged.
    """
    from puzzle_study.datasets import finding, noticing
    from puzzle_study.datasets.original_sizes import OriginalSizes

    units = finding.units(data.name, data.root)
    unit = units[spec.normal_class if spec.normal_class in units else ""]
    return OriginalSizes.of(noticing.training_files([unit]))


def stratified(classes: Sequence[str], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw ``count`` positions of ``classes`` in proportion to each class; sorted, see ``protocols.stratified``."""
    from puzzle_study.datasets import protocols

    return protocols.stratified(classes, count, seed)
