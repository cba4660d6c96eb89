"""A set stored as arrays in a few files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from puzzle_study.datasets.images import resize_all
from puzzle_study.datasets.records import Bytes, Decoded, Inspection, Sizing, attempt, groups_of
from puzzle_study.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Images stored together."""

    name: str
    part: str
    """``train`` or ``test``."""
    labels: Path
    """The label file."""
    read: Callable[[], tuple[Bytes, Bytes]] = field(repr=False, compare=False)
    """Returns the images, uint8 [N, H, W, C], and their labels, uint8 [N]."""


@dataclass(frozen=True)
class ArraysUnit:
    """Batches of images, whose labels index ``classes``; ``files`` are below ``base``."""

    base: Path
    files: tuple[str, ...]
    classes: tuple[str, ...]
    batches: tuple[Batch, ...]
    name: str = ""
    origin: str = ""

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.base)

    def decode(self, sizing: Sizing, digests: Mapping[str, str]) -> Decoded:
        """Read all batches; image 17 of the batch ``train`` is ``train/00017``."""
        images, classes, names, parts = list[Bytes](), list[str](), list[str](), list[str]()
        for batch in self.batches:
            images_NHWC, label_N = self._read(batch)
            if images and images_NHWC.shape[1:] != images[0].shape[1:]:
                raise UserError(
                    f"{self.where}: {batch.name} has images of another size than {self.batches[0].name}; fetch the "
                    f"set again"
                )
            images.append(images_NHWC)
            classes += [self.classes[label] for label in label_N]
            names += [f"{batch.name}/{number:05d}" for number in range(len(label_N))]
            parts += [batch.part] * len(label_N)
        return decoded_arrays(np.concatenate(images), sizing, names=names, classes=classes, parts=parts)

    def inspect(self) -> Inspection:
        """Read all batches, and continue after damaged ones."""
        counts, damaged = Counter({"train": 0, "test": 0}), []
        for batch in self.batches:
            read = attempt(lambda batch=batch: self._read(batch))  # type: ignore[misc]
            if isinstance(read, UserError):
                damaged.append(str(read))
            else:
                counts[batch.part] += len(read[1])
        return Inspection(counts=counts, damaged=tuple(damaged))

    def _read(self, batch: Batch) -> tuple[Bytes, Bytes]:
        images_NHWC, label_N = batch.read()
        if label_N.max() >= len(self.classes):
            raise UserError(
                f"{batch.labels} holds the label {label_N.max()}, but the set's {len(self.classes)} classes are "
                f"numbered from 0; fetch the set again"
            )
        return images_NHWC, label_N


def decoded_arrays(
    images_NHWC: Bytes, sizing: Sizing, *, names: Sequence[str], classes: Sequence[str], parts: Sequence[str]
) -> Decoded:
    """Return images, uint8 [N, H, W, C], in the given order; equal ones form a group."""
    return Decoded(
        images_NCHW=resize_all(images_NHWC, sizing),
        names=tuple(names),
        classes=tuple(classes),
        parts=tuple(parts),
        groups=groups_of([image.tobytes() for image in images_NHWC]),
    )
