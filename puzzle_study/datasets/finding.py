"""Finds a set's files: below ``data.root`` or a folder there with the set's name."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path

from puzzle_study.datasets.catalogue import DATASETS, DEFAULT_ROOT, DatasetInfo
from puzzle_study.datasets.records import Unit, reading
from puzzle_study.errors import UserError


def units(name: str, root: str | None) -> Mapping[str, Unit]:
    """Return a set's parts by category, or one under an empty name, without decoding images."""
    if (found := find(name, root)) is not None:
        return found
    top = _top(root)
    with reading(top):
        what = f"it has no {DATASETS[name].files}" if top.is_dir() else "no such folder"
    raise UserError(f"data.root {top}: {what}; {remedy(name, root)}")


def find(name: str, root: str | None) -> Mapping[str, Unit] | None:
    """Return :func:`units`, or None if the set is not there."""
    info = DATASETS[name]
    look: Callable[[Path, DatasetInfo], Mapping[str, Unit] | None] = pkgutil.resolve_name(info.reader)
    if not info.in_a_folder:
        return look(Path(), info)
    top = _top(root)
    for place in [top] if info.of_the_user else [top / name, top, *(top / below for below in info.below)]:
        with reading(place):
            if place.is_dir() and (found := look(place, info)) is not None:
                return found
    return None


def remedy(name: str, root: str | None) -> str:
    """Return how to get a set that is missing."""
    if DATASETS[name].downloads:
        return f"run `python -m puzzle_study.data fetch {name} --root {_top(root)}`, or set data.root to its folder"
    return instructions(name, root)


def instructions(name: str, root: str | None) -> str:
    """Say how to get a set that cannot be fetched without an account."""
    info = DATASETS[name]
    page = "" if info.of_the_user else f"go to {info.source}, "
    return page + info.by_hand.format(folder=_top(root) / name)


def is_other_set(name: str, found: Mapping[str, Unit]) -> bool:
    """Whether the layout is the set's but none of its categories is: then these are other images."""
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
