"""From the words of a command line to a detector's folder and the image files."""

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
        UserError: there is no detector, more than one to choose from, or a folder that may not be read.
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
    """Return the folder itself if it is a detector's, else the detectors right below it, in order.

    Raises:
        UserError: a folder that may hold one may not be read.
    """
    if _is_detector(folder):
        return [folder]
    with reading(folder):
        # Path.glob would pass over what may not be read.
        below = sorted(folder.iterdir()) if folder.is_dir() else []
    return [place for place in below if _is_detector(place)]


def _is_detector(folder: Path) -> bool:
    with reading(folder):
        return (folder / DESCRIPTION).is_file()


def find_images(words: Sequence[str]) -> list[Path]:
    """Return the image files that files, folders (all that is below them) and glob patterns name, each once.

    A file that is named is taken whatever its suffix; folders and patterns give what has an image's suffix. A folder
    that may not be read stands for the images in it, so that who reads the files says so.

    Raises:
        UserError: a word leads to no image, or to a folder that may not be read.
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
    """Yield the images below a folder in order; hidden folders and links to folders are left out."""
    closed: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for path in (Path(place, name) for name in sorted(names)) if is_image_name(path))
    yield from (Path(error.filename) for error in closed)


def _matching(pattern: str) -> Iterator[Path]:
    """Yield the images that match a pattern, in order, and the folders that could not be searched for more."""
    # Path.glob takes no absolute patterns.
    for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207
        if is_image_name(path := Path(match)) and path.is_file():
            yield path
    # glob passes over such folders without a word.
    closed: list[OSError] = []
    for folder in glob.glob(os.path.join(os.path.dirname(pattern), ""), recursive=True):  # noqa: PTH118, PTH120, PTH207
        next(os.walk(folder, onerror=closed.append), None)
    yield from (Path(error.filename) for error in closed)
