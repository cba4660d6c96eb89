"""Which trials of a plan run together in one process (`resources.fuse`): a pure function of what is planned.

So neither the number of workers nor their speed decides which trainings are fused, and a study that is run again fuses
the same.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from itertools import islice

from puzzle_study import config
from puzzle_study.config.types import Alike, Images
from puzzle_study.datasets import DATASETS
from puzzle_study.errors import UserError
from puzzle_study.trials.spec import TrialSpec

# Measured on a CPU with images of 16 to 32 pixels: four together train 1.4 (float32) or 1.7 times (bfloat16) as many
# images a second as one at 1e9 multiply-adds a step, 1.0 or 1.1 times at 4e9, and fewer beyond. Eight gain little more.
# A GPU's numbers are estimated from the launches of a step, and not measured.
MOST_TOGETHER = {"cpu": 4, "gpu": 8}
LARGEST_STEP = {"cpu": 3.5e9, "gpu": 3e10}


def most_together(study: config.Study, trainings: int) -> int:
    """Return how many trials run together at most in a study with ``trainings`` in each configuration.

    Raises:
        UserError: trials are to be fused, and something in the study follows each trial by itself.
    """
    wanted = study.resources.fuse
    if wanted == 1:
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
        return wanted
    in_flight = trainings * (search.lookahead if search else 1)
    return max(1, min(MOST_TOGETHER[_kind(study)], in_flight // _workers(study)))


def _kind(study: config.Study) -> str:
    return "gpu" if study.resources.gpu else "cpu"


def _helps(spec: TrialSpec, alike: Alike, study: config.Study) -> bool:
    """Whether several such trainings together are faster than one after the other."""
    data = spec.settings.data
    pixels = (data.size or DATASETS[data.name].size) ** 2
    images = Images(alike.batch_size, pixels, data.channels, spec.task.normal_class, spec.task.dataset)
    return spec.settings.own.costs(images).epoch * alike.batch_size <= LARGEST_STEP[_kind(study)]


def _workers(study: config.Study) -> int:
    """Return how many trials or groups fit on this machine at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fit = max(1, int(cores / study.resources.cpu))
    return min(fit, study.max_concurrent or fit)


def block_size(study: config.Study, most: int, trainings: int) -> int:
    """Return how many successive configurations are released at once, so that their trials can be fused.

    A configuration must not wait for one that is chosen by its own result.
    """
    return max(1, min(most // trainings, study.search.lookahead if study.search else 1))


def groups(trials: Iterable[TrialSpec], most: int, study: config.Study) -> list[tuple[TrialSpec, ...]]:
    """Return the groups of at most ``most`` trials of equal shape that run together, those of one task side by side."""
    by_shape: dict[Hashable, list[TrialSpec]] = {}
    for spec in trials:
        alike = spec.settings.own.alike()
        if alike is not None and (study.resources.fuse != "auto" or _helps(spec, alike, study)):
            images = spec.settings.data.model_dump_json()
            by_shape.setdefault((spec.detector, images, alike), []).append(spec)
    found = []
    for specs in by_shape.values():
        tasks = list(dict.fromkeys(spec.task for spec in specs))
        # Batches of one task have equal sizes.
        rest = iter(sorted(specs, key=lambda spec: tasks.index(spec.task)))
        while group := tuple(islice(rest, most)):
            found.append(group)
    return found
