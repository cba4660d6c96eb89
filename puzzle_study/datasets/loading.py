"""From a study file's ``data`` section to tasks: finds the files, resolves classes, splits, loads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import torch

from puzzle_study import config
from puzzle_study.datasets import cache, finding, masks, protocols, zoom
from puzzle_study.datasets.catalogue import DATASETS, DatasetInfo
from puzzle_study.datasets.records import Bytes, Decoded, Sizing, Unit
from puzzle_study.datasets.task import SplitSizes, Task, TaskSpec
from puzzle_study.errors import UserError, cut, suggestion


def task_specs(data: config.Data) -> list[TaskSpec]:
    """List the one-class problems of ``data``, in a fixed order.

    Raises:
        UserError: the files are missing, or a normal class does not exist.
    """
    # If the catalogue knows the classes, the files may be missing: a dry run counts trainings without them.
    named = DATASETS[data.name].protocol != "given"
    chosen = _normal_classes(data, {} if named else finding.units(data.name, data.root))
    if DATASETS[data.name].protocol == "protocol1":
        drawn = protocols.objects(chosen, data.repeats, data.split_seed)
        return [TaskSpec(data.name, name, repeat) for repeat, name in enumerate(drawn)]
    return [TaskSpec(data.name, name) for name in chosen]


def load_task(data: config.Data, spec: TaskSpec) -> Task:
    """Load one problem; the same ``data`` (with its ``split_seed``) and ``spec`` give the same tensors.

    Raises:
        UserError: a file is missing, damaged or unreadable, or a class has too few images for its split.
    """
    decoded, chosen = _split(data, spec)
    names = tuple(decoded.names[index] for index in chosen.test)
    masks_NHW = masks.masks_of(data.name, _unit(data, spec), _sizing(data).size, names, chosen.labels)
    train = decoded.images_NCHW[chosen.train]
    if data.augment_to:
        train = zoom.augment(train, data.augment_to, protocols.generator(data, protocols.Purpose.ZOOM, spec))
    return Task(
        spec=spec,
        train=_tensor(train),
        validation=_tensor(decoded.images_NCHW[chosen.validation]),
        test=_tensor(decoded.images_NCHW[chosen.test]),
        labels=torch.from_numpy(chosen.labels),
        test_classes=tuple(decoded.classes[index] for index in chosen.test),
        test_names=names,
        masks=None if masks_NHW is None else torch.from_numpy(masks_NHW),
    )


def split_sizes(data: config.Data, spec: TaskSpec) -> SplitSizes:
    """Return how many images :func:`load_task` gives, including copies by zoom augmentation; raises its errors."""
    _, chosen = _split(data, spec)
    anomalous = int(np.count_nonzero(chosen.labels))
    train = max(len(chosen.train), data.augment_to or 0)
    return SplitSizes(train, len(chosen.validation), len(chosen.test) - anomalous, anomalous)


def fingerprint(data: config.Data) -> str:
    """Return 16 hexadecimal digits of a hash of the decoded images, names and classes that ``data`` uses.

    The first call on a set decodes it into the cache; later ones only compare the files' sizes and times.

    Raises:
        UserError: a file is missing, damaged or unreadable.
    """
    digests = [(name, cache.load(data.name, unit, _sizing(data))[1]) for name, unit in sorted(used_units(data).items())]
    return hashlib.sha256(json.dumps([data.name, digests]).encode()).hexdigest()[:16]


def used_units(data: config.Data) -> Mapping[str, Unit]:
    """Return the parts of a set that the tasks of ``data`` use, by name."""
    units = finding.units(data.name, data.root)
    if DATASETS[data.name].protocol != "given":
        return units
    return {name: units[name] for name in _normal_classes(data, units)}


def _split(data: config.Data, spec: TaskSpec) -> tuple[Decoded, protocols.Split]:
    """Return a memory map of the images that a problem draws from, and its indices."""
    info, unit = DATASETS[data.name], _unit(data, spec)
    decoded, _ = cache.load(data.name, unit, _sizing(data))
    return decoded, protocols.split(decoded, spec, data, protocol=info.protocol, where=unit.where)


def _unit(data: config.Data, spec: TaskSpec) -> Unit:
    """Return the part of the set that a problem draws from."""
    info, units = DATASETS[data.name], finding.units(data.name, data.root)
    if spec.dataset != data.name:
        raise ValueError(f"the task is one of {spec.dataset}, the data section is {data.name}")
    _known(spec.normal_class, info, units)
    return units[spec.normal_class if info.protocol == "given" else ""]


def _sizing(data: config.Data) -> Sizing:
    return Sizing(size=data.size or DATASETS[data.name].size, channels=data.channels)


def _tensor(images_NCHW: Bytes) -> torch.Tensor:
    """Wrap images drawn from the memory map; drawing has copied them, so they are writable."""
    return torch.from_numpy(np.ascontiguousarray(images_NCHW))


def _normal_classes(data: config.Data, units: Mapping[str, Unit]) -> list[str]:
    """Return the names of the wanted normal classes, each once, in the study file's order."""
    info = DATASETS[data.name]
    if data.normal_classes is None:
        return [name for name in _names(info, units) if info.protocol != "given" or name in units]
    return list(dict.fromkeys(_known(wanted, info, units) for wanted in data.normal_classes))


def _names(info: DatasetInfo, units: Mapping[str, Unit]) -> list[str]:
    """Return all classes by number: the catalogue's, then any others in the folder."""
    known = list(info.classes or ())
    return known + sorted(name for name in units if name and name not in known)


def _known(wanted: int | str, info: DatasetInfo, units: Mapping[str, Unit]) -> str:
    """Return a class's name, by number or name."""
    names = _names(info, units)
    if isinstance(wanted, int):
        last = info.first_number + len(names) - 1
        if not info.first_number <= wanted <= last:
            raise UserError(
                f"data.normal_classes: {info.title} has no class number {wanted}; its numbers are "
                f"{info.first_number} to {last}"
            )
        wanted = names[wanted - info.first_number]
    elif wanted not in names:
        listed = ", ".join(names) if len(names) <= 20 else f"{names[0]} to {names[-1]}"
        raise UserError(
            f"data.normal_classes: {info.title} has no class {cut(repr(wanted))}; its classes are {listed}"
            f"{suggestion(wanted, names)}"
        )
    if info.protocol == "given" and wanted not in units:
        there = ", ".join(sorted(units))
        raise UserError(
            f"data.normal_classes: the folder of category {cut(repr(wanted))} is not there (only {there}); add it"
        )
    return wanted
