"""Where a set's files are: below ``data.root`` or a folder of the set's name in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from puzzle_study.datasets import cifar, digits, folders, idx
from puzzle_study.datasets.catalogue import DATASETS, DEFAULT_ROOT
from puzzle_study.datasets.records import Unit, md5, reading
from puzzle_study.errors import UserError

_SUBFOLDERS = {"mnist": ("MNIST/raw",), "fashion_mnist": ("FashionMNIST/raw",)}
"""Where other tools keep a set below their own root, besides a folder of the set's name."""
_ALIKE = {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}
"""Sets whose files have the same names, sizes and format."""

_TREES: dict[str, Callable[[Path], Mapping[str, Unit] | None]] = {
    "coil100": folders.find_coil,
    "mvtec": partial(folders.find_categories, whole=True),
    "head_ct": folders.find_head_ct,
    "brain_mri": folders.find_brain_mri,
    "folder": partial(folders.find_categories, whole=False),
}


def units(name: str, root: str | None) -> Mapping[str, Unit]:
    """Return the parts of a set by category, or one under an empty name; no image is decoded.

    Raises:
        UserError: the folder, or the set in it, is not there, is incomplete or may not be read.
    """
    if (found := find(name, root)) is not None:
        return found
    top = _top(root)
    what = f"it holds no {DATASETS[name].files}" if _is_folder(top) else "no such folder"
    raise UserError(f"data.root {top}: {what}; {remedy(name, root)}")


def find(name: str, root: str | None) -> Mapping[str, Unit] | None:
    """Return what :func:`units` does, or None where nothing of the set is there.

    Raises:
        UserError: the set is incomplete or may not be read.
    """
    if name == "digits":
        return digits.find()
    top = _top(root)
    places = [top] if name == "folder" else [top / name, top, *(top / below for below in _SUBFOLDERS.get(name, ()))]
    for place in places:
        with reading(place):
            if place.is_dir() and (found := _find(name, place)) is not None:
                return found
    return None


def remedy(name: str, root: str | None) -> str:
    """Say how to get a set that is not there."""
    if DATASETS[name].downloads:
        return f"run `python -m puzzle_study.data fetch {name} --root {_top(root)}`, or name its folder in data.root"
    return instructions(name, root)


def instructions(name: str, root: str | None) -> str:
    """Say where a set comes from that cannot be fetched without an account."""
    info = DATASETS[name]
    page = "" if name == "folder" else f"go to {info.source}, "
    return page + info.by_hand.format(folder=_top(root) / name)


def is_other_set(name: str, found: Mapping[str, Unit]) -> bool:
    """Whether none of the categories that were found is one of the set's: the layout is the set's, the images not."""
    classes = DATASETS[name].classes
    return classes is not None and all(found) and not set(found) & set(classes)


def described(found: Mapping[str, Unit]) -> str:
    """Return the folder of a set that was found, with its categories if it has any."""
    first = next(iter(found.values()))
    if first.base is None or not first.name:
        return first.where
    return f"{first.base} ({', '.join(found)})"


def _top(root: str | None) -> Path:
    return Path(DEFAULT_ROOT if root is None else root).expanduser()


def _find(name: str, place: Path) -> Mapping[str, Unit] | None:
    classes = DATASETS[name].classes or ()
    if name in _ALIKE:
        found = idx.find(place, classes)
        for unit in found.values() if found else ():
            _refuse_the_other(name, unit)
        return found
    if name == "cifar10":
        return cifar.find(place, classes)
    return _TREES[name](place)


def _refuse_the_other(name: str, unit: idx.IdxUnit) -> None:
    """Raise UserError where a file is, by its published checksum, one of the set whose files have the same names."""
    title, other = DATASETS[name].title, DATASETS[_ALIKE[name]]
    for file in unit.files:
        if md5(unit.base / file) in other.checksums.values():
            raise UserError(
                f"{unit.base / file} is the file of {other.title}, not of {title}; name the folder of {title} in "
                f"data.root, or write {other.name} for {name}"
            )


def _is_folder(path: Path) -> bool:
    with reading(path):
        return path.is_dir()
