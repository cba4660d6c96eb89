"""A set or category stored as a tree of image files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from puzzle_study.datasets.images import decode_all, is_image_name
from puzzle_study.datasets.records import Decoded, Inspection, Sizing, groups_of, reading
from puzzle_study.errors import UserError


@dataclass(frozen=True)
class ImageFile:
    """One image: its path below the unit's base, its class, and its part of a given split (else ``all``)."""

    name: str
    class_name: str
    part: str = "all"


@dataclass(frozen=True)
class FilesUnit:
    """Image files below ``base``, listed on demand, because a tree may have many categories."""

    base: Path
    list_files: Callable[[], tuple[ImageFile, ...]] = field(repr=False, compare=False)
    name: str = ""
    where: str = ""
    other_files: tuple[str, ...] = ()
    """Other files that affect what is read, such as a table of labels."""
    masks: Callable[[], tuple[ImageFile, ...]] = field(default=tuple, repr=False, compare=False)
    """Masks of test images, which a task keeps separately."""
    missing: tuple[str, ...] = ()
    """Files that are missing from the set, for a check's report."""
    origin: str = ""

    @cached_property
    def images(self) -> tuple[ImageFile, ...]:
        """All images in a fixed order."""
        return self.list_files()

    @property
    def files(self) -> tuple[str, ...]:
        """Paths below ``base`` of all files that affect the decoded images."""
        return (*(image.name for image in self.images), *self.other_files)

    def decode(self, sizing: Sizing, digests: Mapping[str, str]) -> Decoded:
        """Decode all files; byte-identical ones form a group."""
        images_NCHW = np.empty((len(self.images), sizing.channels, sizing.size, sizing.size), dtype=np.uint8)
        paths = [self.base / image.name for image in self.images]
        for number, pixels_CHW in enumerate(decode_all(paths, sizing)):
            if isinstance(pixels_CHW, UserError):
                raise pixels_CHW
            images_NCHW[number] = pixels_CHW
        return Decoded(
            images_NCHW=images_NCHW,
            names=tuple(image.name for image in self.images),
            classes=tuple(image.class_name for image in self.images),
            parts=tuple(image.part for image in self.images),
            groups=groups_of([digests[image.name] for image in self.images]),
        )

    def inspect(self) -> Inspection:
        """Decode every file, and continue after damaged ones."""
        files = (*self.images, *self.masks())
        # Any size shows the damage; a small one is cheapest.
        decoded = decode_all([self.base / image.name for image in files], Sizing(size=16, channels=1))
        return Inspection(
            counts=Counter(image.class_name if image.part == "all" else image.part for image in self.images),
            damaged=(
                *(str(result) for result in decoded if isinstance(result, UserError)),
                *(f"{self.base / name} is missing; restore it from its source" for name in self.missing),
            ),
        )


def images_in(folder: Path) -> list[str]:
    """Return the names of the image files directly in a folder, sorted."""
    with reading(folder):
        names = sorted(path.name for path in folder.iterdir() if is_image_name(path))
    if not names:
        raise UserError(f"{folder} has no images; put PNG or JPEG files there, or remove the folder")
    return names


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones."""
    with reading(folder):
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
