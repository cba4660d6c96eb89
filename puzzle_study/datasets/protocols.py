"""Which images train, validate and test a task: the paper's protocols (section 4.1), as index arrays.

Every draw has its own generator, seeded with ``split_seed``, the draw's purpose, the normal class and the repeat, so
no draw affects another. A smaller ``train_fraction`` keeps the test images; its training and validation images
are subsets of those of a larger one.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from puzzle_study.datasets.records import Decoded, Indices
from puzzle_study.datasets.task import TaskSpec
from puzzle_study.errors import UserError

if TYPE_CHECKING:
    from puzzle_study import config

log = logging.getLogger(__name__)

MEDICAL_TEST_IMAGES = 10
PROTOCOL_1_TRAIN_SHARE = 0.8


class Purpose(IntEnum):
    """Purpose of a draw; its number is part of the seed."""

    TRAIN = 1
    VALIDATION = 2
    TEST = 3
    ZOOM = 4
    OBJECT = 5
    HOLD_OUT = 6
    ANOMALIES = 7


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of a task's images among the decoded ones, each sorted."""

    train: Indices
    validation: Indices
    test: Indices
    labels: npt.NDArray[np.bool_]
    """bool [N_test]; True: anomaly."""


def generator(data: config.Data, purpose: Purpose, spec: TaskSpec) -> np.random.Generator:
    """Return the generator for one draw of one task."""
    return np.random.default_rng([data.split_seed, purpose, _number(spec.normal_class), spec.repeat])


def split(decoded: Decoded, spec: TaskSpec, data: config.Data, *, protocol: str, where: str) -> Split:
    """Split a set for one task; ``where`` names the set or folder in messages."""
    classes, parts = np.array(decoded.classes), np.array(decoded.parts)
    normal = classes == ("good" if protocol == "given" else spec.normal_class)
    if not normal.any():
        raise UserError(f"{where} has no image of class {spec.normal_class}; the set is incomplete: restore it")
    if protocol in ("official", "given"):
        pool, test = np.flatnonzero(normal & (parts == "train")), np.flatnonzero(parts == "test")
    else:
        draw = _protocol_1 if protocol == "protocol1" else _medical
        pool, test = draw(normal, decoded.groups, spec, data, where)
    # If the user's own folder lacks something, the report says so instead of the missing numbers.
    if protocol != "given" and not 0 < np.count_nonzero(normal[test]) < len(test):
        missing = "anomalous" if normal[test].any() else "normal"
        raise UserError(f"{where}: the test of class {spec.normal_class} has no {missing} image; add at least one")
    if data.max_test_images is not None and data.max_test_images < len(test):
        seed = int(generator(data, Purpose.TEST, spec).integers(2**31))
        test = test[both_sides([decoded.classes[index] for index in test], ~normal[test], data.max_test_images, seed)]
    train, validation = _training(pool, decoded.groups, spec, data, where)
    return Split(train=train, validation=validation, test=test, labels=~normal[test])


def stratified(classes: Sequence[str], count: int, seed: int) -> Indices:
    """Draw ``count`` of the positions of ``classes`` in proportion to the frequency of each class.

    Shares are rounded by largest remainder; if ``count`` allows, every class keeps at least one.
    The result is sorted and depends only on the arguments; if ``count`` is large enough, all positions are drawn.
    """
    names, member = np.unique(np.asarray(classes, dtype=np.str_), return_inverse=True)
    if count >= len(member):
        return np.arange(len(member))
    frequency = np.bincount(member, minlength=len(names))
    quota = _apportion(frequency, count)
    # One generator per class, so the number drawn from one class does not affect another class.
    chosen = [
        np.random.default_rng([seed, _number(str(name))]).permutation(np.flatnonzero(member == number))
        for number, name in enumerate(names)
    ]
    return np.sort(np.concatenate([drawn[:share] for drawn, share in zip(chosen, quota, strict=True)]))


def both_sides(classes: Sequence[str], anomalous: npt.NDArray[np.bool_], count: int, seed: int) -> Indices:
    """Draw ``count`` of the positions of ``classes``, at least 2, with :func:`stratified` for each side.

    The count is first divided between normal and anomalous positions, so that both remain.
    """
    shares = _apportion(np.bincount(anomalous, minlength=2), count)
    return draw_sides(classes, anomalous, (int(shares[0]), int(shares[1])), seed)


def draw_sides(classes: Sequence[str], anomalous: npt.NDArray[np.bool_], shares: tuple[int, int], seed: int) -> Indices:
    """Draw this many normal and anomalous positions, each in proportion to the frequency of its classes."""
    sides = [np.flatnonzero(~anomalous), np.flatnonzero(anomalous)]
    drawn = [
        side[stratified([classes[index] for index in side.tolist()], share, seed)]
        for side, share in zip(sides, shares, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def draw_groups(groups: Indices, count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Mark ``count`` images or a few less, so that images of one group are marked together or not at all."""
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    taken = np.zeros(len(sizes), dtype=bool)
    for group in rng.permutation(len(sizes)):
        if sizes[group] <= count:
            taken[group] = True
            count -= int(sizes[group])
        if count == 0:
            break
    return taken[member]


def objects(candidates: Sequence[str], repeats: int, seed: int) -> list[str]:
    """Draw the normal object of each repeat of protocol 1; an object repeats only after all have been drawn."""
    drawn: list[str] = []
    while len(drawn) < repeats:
        order = np.random.default_rng([seed, Purpose.OBJECT, len(drawn)]).permutation(len(candidates))
        drawn += [candidates[number] for number in order]
    return drawn[:repeats]


def _number(name: str) -> int:
    """Return a number for a seed that depends only on the name."""
    # Folder names may contain bytes that are not text.
    return zlib.crc32(name.encode(errors="surrogateescape"))


def _apportion(frequency: Indices, count: int) -> Indices:
    """Divide ``count`` among classes by largest remainder, at least 1 for each class with images if possible."""
    exact = frequency * (count / frequency.sum())
    quota = np.floor(exact).astype(np.int64)
    # Stable sort, so that of equal remainders the first class wins.
    order = np.argsort(-(exact - quota), kind="stable")
    quota[order[: count - quota.sum()]] += 1
    if count >= np.count_nonzero(frequency):
        for poor in np.flatnonzero((quota == 0) & (frequency > 0)):
            quota[np.argmax(quota)] -= 1
            quota[poor] = 1
    return np.asarray(quota)


def _training(pool: Indices, groups: Indices, spec: TaskSpec, data: config.Data, where: str) -> tuple[Indices, Indices]:
    """Split validation off the normal training images, then reduce both: (train, validation)."""
    if len(pool) < 2:
        raise UserError(f"{where}: class {spec.normal_class} has {len(pool)} training images; at least 2 are needed")
    order = generator(data, Purpose.TRAIN, spec).permutation(pool)[: data.max_train_images]
    limited, count = np.sort(order), data.validation_count
    fits = count is not None and count < len(limited)
    held_out = count if count is not None and fits else _share(len(limited), data)
    validating = draw_groups(groups[limited], held_out, generator(data, Purpose.VALIDATION, spec))
    if not validating.any():
        raise UserError(
            f"{where}: class {spec.normal_class} has too few different training images to split validation off "
            f"({len(np.unique(groups[limited]))} among {len(limited)}); add images or raise data.validation_fraction"
        )
    train, validation = limited[~validating], limited[validating]
    keep = min(max(2, round(data.train_fraction * len(pool))), len(limited))
    if keep < len(limited):
        fits = False  # the count refers to all images
        held_out = max(min(_share(keep, data), len(validation)), keep - len(train))
        # Takes the start of a fixed order, so a smaller fraction keeps a subset.
        train, validation = (
            np.sort(order[np.isin(order, part)][:kept])
            for part, kept in ((train, keep - held_out), (validation, held_out))
        )
    if count is not None and not fits:
        log.info(
            f"{where}: data.validation_count {count} does not fit {keep} of {len(pool)} training images of class "
            f"{spec.normal_class}; data.validation_fraction leaves {len(validation)} for validation"
        )
    return train, validation


def _share(images: int, data: config.Data) -> int:
    """Return how many of these training images the fraction sets aside for validation, at least one."""
    return min(max(1, round(data.validation_fraction * images)), images - 1)


def _protocol_1(
    normal: npt.NDArray[np.bool_], groups: Indices, spec: TaskSpec, data: config.Data, where: str
) -> tuple[Indices, Indices]:
    """80 % of the object's images train; the rest, and as many of other objects, test."""
    own, others = np.flatnonzero(normal), np.flatnonzero(~normal)
    held_out = len(own) - round(PROTOCOL_1_TRAIN_SHARE * len(own))
    testing = draw_groups(groups[own], held_out, generator(data, Purpose.HOLD_OUT, spec))
    if len(others) < np.count_nonzero(testing):
        raise UserError(f"{where}: {len(others)} images of other objects are too few to be the anomalies; add objects")
    drawn = generator(data, Purpose.ANOMALIES, spec).choice(others, np.count_nonzero(testing), replace=False)
    return own[~testing], np.sort(np.concatenate([own[testing], drawn]))


def _medical(
    normal: npt.NDArray[np.bool_], groups: Indices, spec: TaskSpec, data: config.Data, where: str
) -> tuple[Indices, Indices]:
    """Ten normal images and all anomalous ones test; the other normal ones train."""
    own = np.flatnonzero(normal)
    if len(own) < MEDICAL_TEST_IMAGES + 2:
        raise UserError(
            f"{where} has {len(own)} normal images; {MEDICAL_TEST_IMAGES} for the test and 2 for training are needed"
        )
    testing = draw_groups(groups[own], MEDICAL_TEST_IMAGES, generator(data, Purpose.HOLD_OUT, spec))
    return own[~testing], np.sort(np.concatenate([own[testing], np.flatnonzero(~normal)]))
