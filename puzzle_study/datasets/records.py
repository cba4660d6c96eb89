"""What a reader returns: the parts of a set that are decoded and cached as one, and the result.

Shapes: N images, C channels, H = W = size.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from puzzle_study.errors import UserError

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Decoded:
    """Decoded images with what a protocol needs to split them; each field has N entries."""

    images_NCHW: Bytes
    names: tuple[str, ...]
    """Stable names, unique within the set."""
    classes: tuple[str, ...]
    """Class of each image; with a given split (MVTec AD), ``good`` or the kind of defect."""
    parts: tuple[str, ...]
    """``train`` or ``test`` if the set has its own split, otherwise ``all``."""
    groups: Indices
    """Equal numbers mark images with equal original content, which no split may separate."""


@dataclass(frozen=True)
class Sizing:
    """How images are decoded; the cache has one copy per sizing."""

    size: int
    channels: int


@dataclass(frozen=True)
class Inspection:
    """Result of a check of all files of a unit."""

    counts: Mapping[str, int]
    """Images, readable or not, by part, or by class if the set has no split."""
    damaged: tuple[str, ...]
    """One sentence for each damaged file."""


class Unit(Protocol):
    """A part of a set that is decoded and cached as one: the whole set, or one category of MVTec AD."""

    @property
    def name(self) -> str:
        """Category, or an empty string if the unit is the whole set."""

    @property
    def where(self) -> str:
        """The unit's folder, or its title, for messages."""

    @property
    def base(self) -> Path | None:
        """Folder that the files' names are relative to; None if the images come with a library."""

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that affects the decoded images, as a path below ``base``."""

    @property
    def origin(self) -> str:
        """Anything else that affects the images, such as the version of a library; usually empty."""

    def decode(self, sizing: Sizing, digests: Mapping[str, str]) -> Decoded:
        """Decode all images; ``digests`` has the SHA-256 of each of ``files``."""

    def inspect(self) -> Inspection:
        """Read everything, and continue after damaged files."""


def groups_of(keys: Sequence[str] | Sequence[bytes]) -> Indices:
    """Number equal keys alike, in order of first appearance: the ``groups`` of images with these contents."""
    numbers: dict[str | bytes, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def attempt(read: Callable[[], Result]) -> Result | UserError:
    """Return the result of ``read``, or its error as a value, so that a reader can continue after damaged files."""
    try:
        return read()
    except UserError as error:
        return error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn operating system errors about ``path`` into one sentence each."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing; put it back or fetch the set again") from None
    except PermissionError:
        raise UserError(f"{path} cannot be read by this user; give read permission (chmod u+rX)") from None
    except OSError as error:
        mend = "shorten it" if error.errno == errno.ENAMETOOLONG else "restore it from its source"
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {mend}") from None


def hexdigest(path: Path, algorithm: str) -> str:
    """Return the checksum of a file's content by an algorithm of :mod:`hashlib`."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with reading(path), path.open("rb") as file:
        while chunk := file.read(1 << 20):  # hashlib.file_digest is not in Python 3.10
            digest.update(chunk)
    return digest.hexdigest()
