"""What is known about each set before its files are read: sizes, classes, licence, source, downloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from puzzle_study.registry import Registry

DEFAULT_ROOT = "data"
Protocol = Literal["official", "protocol1", "given", "medical"]


@dataclass(frozen=True)
class Download:
    """One file to fetch; ``urls`` are tried in order."""

    file: str
    urls: tuple[str, ...]
    checksum: str | None
    """Like ``md5:...``; None if the authors publish none: the content is then checked after unpacking."""
    max_bytes: int
    """A longer transfer is stopped, because the server sends something else."""
    unpack: bool = False


@dataclass(frozen=True)
class DatasetInfo:
    """One image set."""

    name: str
    reader: str
    """The function that finds its files, as ``module:function``. It takes a folder and this object, and returns the
    set's parts by category, or None if they are not there. It is imported on first use."""
    title: str
    size: int
    """Side of the square images, in pixels, if ``data.size`` is null (paper, section 4.1)."""
    channels: int
    protocol: Protocol
    """``official``: one class is normal, with the official training and test images (protocol 2).
    ``protocol1``: a random object is normal, 80 % of its images train. ``given``: each category has its own normal
    training images and mixed test images. ``medical``: ten normal images and all anomalous ones test."""
    licence: str
    source: str
    classes: tuple[str, ...] | None
    """Names of the possible normal classes; None if the folder decides."""
    first_number: int = 0
    """Number of the first class in ``normal_classes``."""
    expected: Mapping[str, int] = field(default_factory=dict)
    """Number of images of the whole set, by part or kind."""
    textures: tuple[str, ...] = ()
    """Categories that are textures, with similar pieces."""
    augment_to: int | None = None
    """Number of training images after the paper's augmentation."""
    downloads: tuple[Download, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)
    """Published MD5 of each original file, if known."""
    below: tuple[str, ...] = ()
    """Other tools' folders for the set below their own root, besides a folder with its name."""
    alike: tuple[str, ...] = ()
    """Sets whose files have the same names, sizes and format."""
    by_hand: str = ""
    """Instructions if it cannot be downloaded without an account, as the end of a sentence."""

    @property
    def in_a_folder(self) -> bool:
        """Whether its images are files below ``data.root``, instead of part of a package."""
        return bool(self.downloads or self.by_hand)

    @property
    def of_the_user(self) -> bool:
        """Whether these are the user's own images, whose folder decides the classes."""
        return self.classes is None

    @property
    def files(self) -> str:
        """The required content of a folder, as part of a sentence."""
        return "images in MVTec AD's layout" if self.of_the_user else f"files of {self.title}"


def idx_downloads(bases: tuple[str, ...], checksums: Mapping[str, str]) -> tuple[Download, ...]:
    """Return the four files in MNIST's format, from servers that are tried in turn."""
    return tuple(
        Download(name, tuple(base + name for base in bases), f"md5:{md5}", max_bytes=64 << 20)
        for name, md5 in checksums.items()
    )


DATASETS: Registry[DatasetInfo] = Registry(
    "data set",
    {
        "digits": "puzzle_study.datasets.sets.digits:INFO",
        "mnist": "puzzle_study.datasets.sets.mnist:INFO",
        "fashion_mnist": "puzzle_study.datasets.sets.fashion_mnist:INFO",
        "cifar10": "puzzle_study.datasets.sets.cifar10:INFO",
        "coil100": "puzzle_study.datasets.sets.coil100:INFO",
        "mvtec": "puzzle_study.datasets.sets.mvtec:INFO",
        "head_ct": "puzzle_study.datasets.sets.head_ct:INFO",
        "brain_mri": "puzzle_study.datasets.sets.brain_mri:INFO",
        "folder": "puzzle_study.datasets.sets.folder:INFO",
    },
)
"""Every :class:`DatasetInfo` by its name in study files. A new one is a module in ``sets/`` and a line here."""
