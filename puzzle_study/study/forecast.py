"""What a dry run says: images, trainings, and about how much time and disk they would take on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from puzzle_study import config, datasets
from puzzle_study.config.read import StudyFile
from puzzle_study.criteria.pseudo_anomalies import pseudo_anomalies_of
from puzzle_study.datasets import SplitSizes, Task, TaskSpec
from puzzle_study.detectors.checkpoint import KEPT
from puzzle_study.detectors.devices import claim_cpus, granted_device
from puzzle_study.detectors.memory import is_out_of_memory
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.detectors.puzzle_ae.training import Trainer, TrainingDiverged
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study import space
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import until_done
from puzzle_study.study.selection import require_labels
from puzzle_study.study.storage import is_url
from puzzle_study.study.work import Costs, trial_work
from puzzle_study.trials.run import build, failure_sentence
from puzzle_study.trials.spec import PUZZLE_AE, UNTRAINED, TrialSpec

MEASURED_SECONDS = 1.5
"""How long training steps, and chunks of scoring, are repeated to measure them."""
# Of a study of digits: Ray's start and the report; what the report, and each trial besides its arrays, take.
START_SECONDS, REPORT_BYTES, TRIAL_BYTES = 20.0, 2_000_000, 40_000
FLOAT_BYTES = 4
# Multiply-adds a second of the slower references on MNIST, on one core.
DISTANCE_ADDS = 5e9


def describe(file: StudyFile, folder: Path) -> Iterator[str]:
    """Yield line by line what a study would do; what needs images comes last.

    Args:
        file: the study file.
        folder: where ``<name>/`` with the results would go.

    Raises:
        UserError: images are missing or damaged, or the configuration does not fit them or the memory.
    """
    study = file.study
    require_labels(study.data, study.selection)
    tasks = datasets.task_specs(study.data)
    plan = Plan(file, tasks, "", Results(folder / study.name))
    yield (
        f"{_count(plan.total - len(plan.references), 'training')}: {_count(plan.wanted, 'configuration')} × "
        f"{_count(len(tasks), 'task')} × {_count(len(study.seeds), 'seed')}; and "
        f"{_count(len(plan.references), 'reference')}"
    )
    yield f"dataset {study.data.name}, normal: {', '.join(dict.fromkeys(task.normal_class for task in tasks))}"
    yield (
        f"a training: {study.train.epochs} epochs at most, base {study.model.base_channels}, "
        f"batch {study.train.batch_size}"
    )
    store = f" and {study.storage}" if is_url(study.storage) else ""
    yield f"results would go to {folder / study.name}{store}"
    if study.search is not None:
        yield from (
            f"search axis {name} cannot matter: {why}" for name, why in space.inert_axes(file, study.search).items()
        )
    if (note := space.validation_note(study)) is not None:
        yield note
    datasets.fingerprint(study.data)  # for what is missing or damaged
    yield from (f"note: {note}" for note in datasets.notes(study.data))
    images = {task: datasets.split_sizes(study.data, task) for task in tasks}
    yield f"images of a task: {_in_words(list(images.values()))}"
    yield from _costs(plan, images)


def _costs(plan: Plan, images: Mapping[TaskSpec, SplitSizes]) -> Iterator[str]:
    """Yield the lines on time and disk, from a few steps of the study's own configuration on its first task."""
    study, spec = plan.study, plan.configurations[0].trials[0]
    threads = torch.get_num_threads()
    claim_cpus(study.resources.cpu)
    try:
        task = datasets.load_task(study.data, spec.task)
        trainer, detector, costs = measured(spec, task, granted_device(study.resources.gpu))
    finally:
        torch.set_num_threads(threads)
    yield _time(plan, images, costs)
    yield _disk(plan, images, trainer, detector)


def _time(plan: Plan, images: Mapping[TaskSpec, SplitSizes], costs: Costs) -> str:
    study, (known, unknown), slots = plan.study, plan.left(), _slots(plan.study)
    works = [trial_work(trial, images[trial.task], costs).after(0) for trial in known]
    each = fmean(works[len(plan.references) :])
    seconds = START_SECONDS + until_done((), works + unknown * [each], slots)
    parts = {
        "attacks": study.attacks,
        "racing": plan.racing,
        "stopping": plan.stopping,
        "convergence": study.train.convergence_epochs,
    }
    without = ", ".join(name for name, part in parts.items() if part is not None)
    return (
        f"time: about {_about(seconds)} on this machine, {_count(slots, 'trial')} at once, a training about "
        f"{_about(each)}"
        + (", every configuration counted like the study's own" if plan.wanted > 1 else "")
        + (f"; {without} not counted" if without else "")
    )


def _disk(plan: Plan, images: Mapping[TaskSpec, SplitSizes], trainer: Trainer, detector: PuzzleDetector) -> str:
    weights, (default, *_), (known, unknown) = _bytes(trainer.solver.state_dict()), plan.configurations, plan.left()

    def kept_of(trial: TrialSpec) -> int:
        solves = trial.detector in (PUZZLE_AE, UNTRAINED)
        size = images[trial.task]
        scored = size.validation + pseudo_anomalies_of(size.validation) + size.normal + size.anomalous
        return TRIAL_BYTES + FLOAT_BYTES * scored * (len(detector.puzzle_set) if solves else 1) + weights * solves

    kept = sum(map(kept_of, known)) + unknown * kept_of(default.trials[0]) + len(default.trials) * weights
    running = min(_slots(plan.study), plan.total) * KEPT * _bytes(trainer.state())
    return f"disk: about {_size(kept + REPORT_BYTES)}, and {_size(running)} for checkpoints while it runs"


def measured(spec: TrialSpec, task: Task, device: torch.device) -> tuple[Trainer, PuzzleDetector, Costs]:
    """Return a trial's networks and what they cost in seconds: training steps and scoring, for a few seconds.

    Raises:
        UserError: the configuration diverges, or does not fit the images or the memory.
    """
    settings = spec.settings.train
    try:
        trainer, detector = build(spec, task, device)
        images = task.train.to(device)
        train = 0.0
        if settings.epochs > 0:
            # Two: batch normalisation on the smallest maps needs more than one.
            train = _seconds(trainer.epoch, images[: settings.batch_size], fewest=2)
        chunk = images[next(detector.chunks(len(images)))]
        score = _seconds(lambda some: detector.error_matrix(some).cpu(), chunk, fewest=1)
    except (TrainingDiverged, RuntimeError, MemoryError) as error:
        if not isinstance(error, TrainingDiverged) and not is_out_of_memory(error):
            raise
        raise UserError(failure_sentence(error, spec, device)) from error
    distance = Costs.of(spec.settings).distance / DISTANCE_ADDS
    return trainer, detector, Costs(train, score / len(detector.puzzle_set), distance)


def _seconds(step: Callable[[Tensor], Any], images: Tensor, *, fewest: int) -> float:
    """Return what an image costs in steps of so many images, or of fewer if those would take too long."""

    def once(count: int) -> float:
        started = time.perf_counter()
        step(images[:count])
        return time.perf_counter() - started

    count = min(fewest, len(images))
    while (seconds := once(count)) < MEASURED_SECONDS / 2 and count < len(images):
        count = min(4 * count, len(images))
    # The first step of a size warms up, unless it is so long that this does not matter.
    found = [seconds] if seconds >= MEASURED_SECONDS else [once(count)]
    while sum(found) < MEASURED_SECONDS:
        found.append(once(count))
    return fmean(found) / count


def _slots(study: config.Study) -> int:
    """Return how many trials this machine runs side by side."""
    fit = len(os.sched_getaffinity(0)) / study.resources.cpu
    if study.resources.gpu > 0:
        fit = min(fit, torch.cuda.device_count() / study.resources.gpu)
    return max(1, min(int(fit), study.max_concurrent or int(fit)))


def _bytes(state: Any) -> int:
    """Return the size of the tensors in a nested state."""
    if isinstance(state, Tensor):
        return state.nbytes
    if isinstance(state, dict):
        state = list(state.values())
    return sum(map(_bytes, state)) if isinstance(state, (list, tuple)) else 0


def _in_words(sizes: list[SplitSizes]) -> str:
    def span(name: str) -> str:
        counts = [getattr(size, name) for size in sizes]
        return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"

    test = "no test images"
    if any(size.normal + size.anomalous for size in sizes):
        test = f"{span('normal')} normal and {span('anomalous')} anomalous for the test"
    return f"{span('train')} for training, {span('validation')} for validation, {test}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _about(seconds: float) -> str:
    for length, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{_two_digits(seconds / length)} {unit}"
    return f"{_two_digits(seconds)} s"


def _size(size: float) -> str:
    return f"{_two_digits(size / 1e9)} GB" if size >= 1e9 else f"{_two_digits(size / 1e6)} MB"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,g}"
