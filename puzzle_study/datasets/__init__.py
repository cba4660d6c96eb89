"""Image sets as one-class problems: a detector's normal training, validation and test images.

``task_specs`` names the problems of a study file's ``data`` section, ``load_task`` loads one of them
and ``fingerprint`` tells whether the images have changed. Readers of the original layouts, the cache of decoded
images and the protocols are separate modules. Importing this package loads neither NumPy nor PyTorch: a
function's module is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from puzzle_study.datasets.catalogue import DATASETS, DatasetInfo
from puzzle_study.datasets.task import SplitSizes, Task, TaskSpec

if TYPE_CHECKING:
    from puzzle_study.datasets.loading import fingerprint, load_task, split_sizes, task_specs
    from puzzle_study.datasets.noticing import gray_as_colour, lacking, notes, training_sizes
    from puzzle_study.datasets.protocols import stratified

__all__ = [
    "DATASETS",
    "DatasetInfo",
    "SplitSizes",
    "Task",
    "TaskSpec",
    "fingerprint",
    "gray_as_colour",
    "lacking",
    "load_task",
    "notes",
    "split_sizes",
    "stratified",
    "task_specs",
    "training_sizes",
]
_MODULES = dict.fromkeys(("gray_as_colour", "lacking", "notes", "training_sizes"), "noticing") | {
    "stratified": "protocols"
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'loading')}"), name)
