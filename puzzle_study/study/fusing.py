"""Which trials of a plan run together in one process: fused ones (`resources.fuse`), and those of one training.

It is a pure function of what is planned. So neither the number of workers nor their speed decides which trainings are
fused, and a study that is run again fuses the same.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from itertools import islice

import torch

from puzzle_study import config
from puzzle_study.config.types import Alike, Images
from puzzle_study.datasets import DATASETS
from puzzle_study.detectors.devices import cores
from puzzle_study.errors import UserError
from puzzle_study.study.planned import Planned
from puzzle_study.trials.spec import TrialSpec, by_training

# Most trials together, and multiply-adds of a step, for `auto` on a GPU; estimated from a step's launches, not
# measured.
MOST_TOGETHER = 8
LARGEST_STEP = 3e10


class Fusing:
    """The groups of a plan's trials; configurations wait until there are enough for a group.

    Args:
        study: what is planned.
        trainings: trials of each configuration.
        along: axes that are met along trainings.
    """

    def __init__(self, study: config.Study, trainings: int, along: Collection[str] = ()) -> None:
        self._study, self.together = study, most_together(study, trainings, along)
        # A configuration must not wait for one that is chosen by its own result.
        self._enough = max(1, min(self.together // trainings, study.search.lookahead if study.search else 1))
        self._waiting: list[Planned] = []
        self._group_of: dict[str, tuple[TrialSpec, ...]] = {}
        self._alone = set[str]()

    def released(self, planned: Iterable[Planned]) -> list[TrialSpec]:
        """Return the trials that can be queued now that these configurations are chosen."""
        self._waiting += planned
        return self.release() if len(self._waiting) >= self._enough else []

    def release(self) -> list[TrialSpec]:
        """Return the trials of the configurations that wait, after which none does."""
        planned, self._waiting = self._waiting, []
        trials = [spec for each in planned for spec in each.trials[: each.released]]
        for group in groups(trials, self.together, self._study):
            self._group_of |= {spec.key: group for spec in group}
        return trials

    def beside(self, spec: TrialSpec) -> list[TrialSpec]:
        """Return the trials that may run together with this one."""
        if spec.key in self._alone:
            return []
        return [other for other in self._group_of.get(spec.key, ()) if other != spec and other.key not in self._alone]

    def separate(self, trials: Iterable[TrialSpec]) -> None:
        """Let each of these run alone from now on."""
        self._alone.update(spec.key for spec in trials)


def most_together(study: config.Study, trainings: int, along: Collection[str]) -> int:
    """Return how many trials run together at most in a study with ``trainings`` in each configuration.

    Raises:
        UserError: trials are to be fused, and something in the study follows each trial by itself, or several trials
            have one training.
    """
    wanted = study.resources.fuse
    # On a CPU rounding grows along a training until other configurations are chosen than without fusing.
    if wanted == 1 or (wanted == "auto" and not study.resources.gpu):
        return 1
    search = study.search
    parts = {
        "search.racing": search and search.racing,
        "search.stopping": search and search.stopping,
        "loggers": study.loggers,
    }
    alone = next((name for name, part in parts.items() if part), None)
    if alone is not None:
        if wanted == "auto":
            return 1
        raise UserError(
            f"resources.fuse cannot be {wanted} with {alone}, which follows every trial by itself; set it to 1"
        )
    if wanted != "auto":
        if along:
            raise UserError(
                f"resources.fuse cannot be {wanted} with the search axis {next(iter(along))}, whose values are all met "
                f"along one training; set it to 1"
            )
        return wanted
    if along:
        return 1
    in_flight = trainings * (search.lookahead if search else 1)
    return max(1, min(MOST_TOGETHER, in_flight // at_once(study.resources, study.max_concurrent)))


def at_once(resources: config.Resources, most: int | None) -> int:
    """Return how many trials, or groups of them, run at once on this machine: at least one, at most ``most``.

    A trial that asks for part of a GPU gets it from one; what is left of each and too small for a trial stays idle.
    """
    fit = int(cores() / resources.cpu)
    if gpu := resources.gpu:
        gpus = torch.cuda.device_count()
        fit = min(fit, gpus * int(1 / gpu) if gpu < 1 else int(gpus / gpu))
    return max(1, min(fit, most or fit))


def _helps(spec: TrialSpec, alike: Alike) -> bool:
    """Whether several such trainings together are faster than one after the other."""
    data = spec.settings.data
    pixels = (data.size or DATASETS[data.name].size) ** 2
    images = Images(alike.batch_size, pixels, data.channels, spec.task.normal_class, spec.task.dataset)
    return spec.settings.own.costs(images).epoch * alike.batch_size <= LARGEST_STEP


def groups(trials: Iterable[TrialSpec], most: int, study: config.Study) -> list[tuple[TrialSpec, ...]]:
    """Return the groups of trials that run together: those of one training, or at most ``most`` of equal shape.

    The trials of one task are side by side.
    """
    by_shape: dict[Hashable, list[TrialSpec]] = {}
    sharing = list[TrialSpec]()
    for spec in trials:
        if spec.along:
            sharing.append(spec)
            continue
        alike = spec.settings.own.alike()
        if alike is not None and (study.resources.fuse != "auto" or _helps(spec, alike)):
            images = spec.settings.data.model_dump_json()
            by_shape.setdefault((spec.detector, images, alike), []).append(spec)
    found = list(map(tuple, by_training(sharing)))
    for specs in by_shape.values():
        tasks = list(dict.fromkeys(spec.task for spec in specs))
        # Batches of one task have equal sizes.
        rest = iter(sorted(specs, key=lambda spec: tasks.index(spec.task)))
        while group := tuple(islice(rest, most)):
            found.append(group)
    return found
