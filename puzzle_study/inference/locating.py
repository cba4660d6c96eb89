"""Finds a detector's folder and image files from the words of a command line."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from puzzle_study.datasets.images import is_image_name
from puzzle_study.datasets.records import reading
from puzzle_study.detectors.files import DESCRIPTION
from puzzle_study.errors import UserError

BEST = "best"


def find_detector(folder: Path) -> Path:
    """Return the detector's folder: the folder itself, or the only detector in it or in its ``best``.

    Raises:
        UserError: there is no detector, there are several, or a folder cannot be read.
    """
    for place in (folder, folder / BEST):
        found = detectors_in(place)
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{place} holds {len(found)} detectors; choose one: {', '.join(map(str, found))}")
    what = f"holds no detector ({DESCRIPTION} is missing)" if folder.is_dir() else "is not a folder"
    raise UserError(f"{folder} {what}; give a folder like results/NAME/best/CLASS")


def detectors_in(folder: Path) -> list[Path]:
    """Return the folder itself if it is a detector's, otherwise the detectors directly below it, in order.

    Raises:
        UserError: a folder that may contain a detector cannot be read.
    """
    if _is_detector(folder):
        return [folder]
    with reading(folder):
        # Path.glob would skip unreadable folders.
        below = sorted(folder.iterdir()) if folder.is_dir() else []
    return [place for place in below if _is_detector(place)]


def _is_detector(folder: Path) -> bool:
    with reading(folder):
        return (folder / DESCRIPTION).is_file()


def find_images(words: Sequence[str]) -> list[Path]:
    """Return the image files for files, folders (with everything below them) and glob patterns, each once.

    A named file is taken whatever its suffix; folders and patterns give files with an image suffix. An unreadable
    folder is returned in place of its images, so that the reader of the files reports it.

    Raises:
        UserError: a word leads to no image, or to an unreadable folder.
    """
    found: dict[Path, None] = {}
    for word in words:
        path = Path(word)
        with reading(path):
            if path.is_dir():
                images = list(images_below(path))
                missing = f"{word} holds no image; PNG, JPEG, TIFF and their like are read"
            elif path.exists() or not glob.has_magic(word):
                images = [path] if path.exists() else []
                missing = f"{word} does not exist; give image files, folders or glob patterns"
            else:
                images = list(_matching(word))
                missing = f"{word} matches no image; ** also matches the folders below"
        if not images:
            raise UserError(missing)
        found |= dict.fromkeys(images)
    return list(found)


def images_below(folder: Path) -> Iterator[Path]:
    """Yield the images below a folder in order, without hidden folders and links to folders."""
    closed: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for path in (Path(place, name) for name in sorted(names)) if is_image_name(path))
    yield from (Path(error.filename) for error in closed)


def _matching(pattern: str) -> Iterator[Path]:
    """Yield the images that match a pattern, in order, and the folders that could not be searched."""
    # Path.glob does not take absolute patterns.
    for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207
        if is_image_name(path := Path(match)) and path.is_file():
            yield path
    # glob skips these folders silently.
    closed: list[OSError] = []
    for folder in glob.glob(os.path.join(os.path.dirname(pattern), ""), recursive=True):  # noqa: PTH118, PTH120, PTH207
        next(os.walk(folder, onerror=closed.append), None)
    yield from (Path(error.filename) for error in closed)
