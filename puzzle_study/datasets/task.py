"""One one-class problem: by name (:class:`TaskSpec`) and with its images (:class:`Task`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TaskSpec:
    """Name of a one-class problem: cheap, hashable, without images."""

    dataset: str
    normal_class: str
    repeat: int = 0
    """Number of the draw under protocol 1 (COIL-100); otherwise 0."""


@dataclass(frozen=True)
class SplitSizes:
    """A one-class problem's number of images for training, for validation, and for each side of the test."""

    train: int
    validation: int
    normal: int
    anomalous: int


@dataclass(frozen=True, eq=False)
class Task:
    """A one-class problem with its images, all ``uint8`` of shape [N, C, H, W].

    Training and validation images are all normal, and no image or byte-identical copy is in both.
    """

    spec: TaskSpec
    train: torch.Tensor
    """uint8 [N_train, C, H, W]; with zoom augmentation the copies follow the originals."""
    validation: torch.Tensor
    """uint8 [N_validation, C, H, W]."""
    test: torch.Tensor
    """uint8 [N_test, C, H, W]."""
    labels: torch.Tensor
    """bool [N_test]; True: anomaly."""
    test_classes: tuple[str, ...]
    """Class, or name of the defect, of each test image."""
    test_names: tuple[str, ...]
    """Stable name of each test image: its path below the set's folder, or like ``t10k/00017``."""
    masks: torch.Tensor | None = None
    """int8 [N_test, H, W]: 1 for anomalous pixels, 0 for normal ones, −1 in anomalous images without a mask; None if
    no image has a mask."""
