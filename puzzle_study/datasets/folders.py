"""The layouts of sets that are trees of image files: MVTec AD's, COIL-100's, Head CT's, Brain MRI's."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from puzzle_study.datasets.catalogue import DatasetInfo
from puzzle_study.datasets.files_unit import FilesUnit, ImageFile, folders_in, images_in
from puzzle_study.datasets.records import reading
from puzzle_study.errors import UserError

GOOD = "good"
"""MVTec AD's name for folders with normal images."""
NORMAL = "normal"
"""The medical sets' only possible normal class."""
COIL_FILE = re.compile(r"obj(\d+)__(\d+)\.png", re.IGNORECASE)
COIL_ANGLES = range(0, 360, 5)


def find_categories(place: Path, info: DatasetInfo) -> Mapping[str, FilesUnit] | None:
    """Return each category of a tree in MVTec AD's layout; None if ``place`` has none.

    ``place`` is a category itself, with ``train`` and ``test``, or a folder of categories. A published set
    has normal and anomalous test images in every category; in the user's own, either or both may be missing.
    """
    whole = not info.of_the_user
    if (place / "train").is_dir():
        name = place.name if place.name not in ("", "..") else place.resolve().name
        return {name: _category(place, Path(), name, whole=whole)}
    names = [name for name in folders_in(place) if (place / name / "train").is_dir()]
    return {name: _category(place, Path(name), name, whole=whole) for name in names} or None


def find_coil(place: Path, info: DatasetInfo) -> Mapping[str, FilesUnit] | None:
    """Return COIL-100 in ``place`` or its folder ``coil-100``; None without any ``objN__angle.png``."""
    for folder in (place, place / "coil-100"):
        if folder.is_dir():
            with reading(folder):
                matches = [match for path in folder.iterdir() if (match := COIL_FILE.fullmatch(path.name))]
            if matches:
                return {"": _coil(folder, matches)}
    return None


def _coil(folder: Path, matches: list[re.Match[str]]) -> FilesUnit:
    matches.sort(key=lambda match: (int(match[1]), int(match[2])))
    images = tuple(ImageFile(match[0], f"obj{int(match[1])}") for match in matches)
    there = {(int(match[1]), int(match[2])) for match in matches}
    poses = [(number, angle) for number in sorted({number for number, _ in there}) for angle in COIL_ANGLES]
    missing = tuple(f"obj{number}__{angle}.png" for number, angle in poses if (number, angle) not in there)
    return FilesUnit(folder, lambda: images, where=str(folder), missing=missing)


def find_head_ct(place: Path, info: DatasetInfo) -> Mapping[str, FilesUnit] | None:
    """Return Head CT with its ``labels.csv`` in ``place`` and the images beside it or in ``head_ct``."""
    if not (place / "labels.csv").is_file():
        return None
    folders = [place / "head_ct" / "head_ct", place / "head_ct", place]
    folder = next((folder for folder in folders if folder.is_dir() and any(folder.glob("*.png"))), None)
    if folder is None:
        raise UserError(f"{place / 'head_ct'} has no PNG files; unpack the archive's images beside labels.csv")
    labels = _head_ct_labels(place / "labels.csv")
    names = images_in(folder)
    if extra := set(names) - set(labels):
        raise UserError(f"{place / 'labels.csv'} has no line for {min(extra)}; restore the table or remove the image")
    if absent := set(labels) - set(names):
        raise UserError(f"{folder / min(absent)} is missing, though labels.csv has a line for it; restore the image")
    below = folder.relative_to(place)
    images = tuple(ImageFile((below / name).as_posix(), "hemorrhage" if labels[name] else NORMAL) for name in names)
    return {"": FilesUnit(place, lambda: images, where=str(place), other_files=("labels.csv",))}


def find_brain_mri(place: Path, info: DatasetInfo) -> Mapping[str, FilesUnit] | None:
    """Return Brain MRI: the folders ``no`` (normal) and ``yes`` (tumor) in ``place``; None if both are missing."""
    for folder in (place, place / "brain_tumor_dataset"):
        if (folder / "yes").is_dir() or (folder / "no").is_dir():
            images = partial(_listed, folder, ("no", NORMAL, "all"), ("yes", "tumor", "all"))
            return {"": FilesUnit(folder, images, where=str(folder))}
    return None


def _category(base: Path, below: Path, name: str, *, whole: bool) -> FilesUnit:
    return FilesUnit(
        base,
        partial(_list_category, base, below, whole=whole),
        name=name,
        where=str(base / below),
        masks=partial(_list_masks, base, below),
    )


def _list_category(base: Path, below: Path, *, whole: bool) -> tuple[ImageFile, ...]:
    """List the training images, then the test images by kind of defect."""
    for name in folders_in(base / below / "train"):
        if name != GOOD:
            raise UserError(
                f"{base / below / 'train' / name}: training images must all be normal; move these to train/good, or to "
                f"test/{name} if they show a defect"
            )
    kinds = folders_in(base / below / "test") if whole or (base / below / "test").is_dir() else []
    if whole and (GOOD not in kinds or len(kinds) < 2):
        wanted = "a folder for a defect" if GOOD in kinds else "the folder good"
        raise UserError(
            f"{base / below / 'test'} lacks {wanted}; a test needs normal images in test/good and anomalous ones "
            f"in test/<defect>"
        )
    tests = [(below / "test" / kind, kind, "test") for kind in kinds]
    return _listed(base, (below / "train" / GOOD, GOOD, "train"), *tests)


def _list_masks(base: Path, below: Path) -> tuple[ImageFile, ...]:
    truth = below / "ground_truth"
    kinds = folders_in(base / truth) if (base / truth).is_dir() else []
    return _listed(base, *((truth / kind, kind, "mask") for kind in kinds))


def _listed(base: Path, *places: tuple[Path | str, str, str]) -> tuple[ImageFile, ...]:
    """List the images in folders below ``base``, each given with its class and part."""
    return tuple(
        ImageFile((Path(place) / name).as_posix(), class_name, part)
        for place, class_name, part in places
        for name in images_in(base / place)
    )


def _head_ct_labels(path: Path) -> dict[str, bool]:
    """Read ``id, hemorrhage``: the header has a blank after the comma; image 7 is ``007.png``."""
    with reading(path), path.open(newline="", encoding="utf-8-sig") as file:
        try:
            rows = list(csv.reader(file, skipinitialspace=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as a table ({error}); put the original labels.csv there") from None
    if not rows or [cell.strip() for cell in rows[0]] != ["id", "hemorrhage"]:
        raise UserError(f"{path} has another header than `id, hemorrhage`; put the original labels.csv there")
    labels: dict[str, bool] = {}
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not cells[0].isdecimal() or cells[1] not in ("0", "1"):
            raise UserError(f"{path}, line {line}: expected a number and 0 or 1, got {', '.join(cells)!r}")
        name = f"{int(cells[0]):03d}.png"
        if name in labels:
            raise UserError(f"{path}, line {line}: image {cells[0]} has a line already; remove one of them")
        labels[name] = cells[1] == "1"
    return labels
