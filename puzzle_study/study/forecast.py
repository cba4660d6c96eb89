"""The output of a dry run: images, trainings, and estimates of time and disk on this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from puzzle_study import datasets
from puzzle_study.config.paths import is_url
from puzzle_study.config.read import StudyFile
from puzzle_study.config.types import Costs
from puzzle_study.datasets import SplitSizes, Task, TaskSpec
from puzzle_study.detectors.base import Detector, Run, TrainingDiverged
from puzzle_study.detectors.checkpoint import KEPT
from puzzle_study.detectors.devices import claim_cpus, granted_device
from puzzle_study.detectors.memory import is_out_of_memory
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study import space
from puzzle_study.study.environment import notes
from puzzle_study.study.fusing import at_once
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import until_done
from puzzle_study.study.work import Work, costs_of, scored_images, training_work, trial_work
from puzzle_study.trials.augmenting import Augmentation
from puzzle_study.trials.run import build, failure_sentence
from puzzle_study.trials.spec import TrialSpec, by_training
from puzzle_study.trials.worth import require_labels

FEWEST = 32
"""Number of images in the shortest measured epoch."""
MEASURED_SECONDS = 1.5
"""How long training steps, and chunks of scoring, are repeated to measure them."""
# From a study of digits: Ray's start and the report; bytes of the report, and of each trial besides its arrays.
START_SECONDS, REPORT_BYTES, TRIAL_BYTES = 20.0, 2_000_000, 40_000
FLOAT_BYTES = 4
# Multiply-adds per second of the slower references on MNIST, on one core.
DISTANCE_ADDS = 5e9


def describe(file: StudyFile, folder: Path) -> Iterator[str]:
    """Yield line by line what a study would do; lines that need images come last.

    Raises:
        UserError: images are missing or damaged, or the configuration does not fit them or the memory.
    """
    study = file.study
    require_labels(study.data, study.selection)
    tasks = datasets.task_specs(study.data)
    plan = Plan(file, tasks, "", Results(folder / study.name))
    each = len(tasks) * len(study.seeds)
    yield (
        f"{_count(plan.trainings * each, 'training')}: {_count(plan.trainings, 'configuration')} × "
        f"{_count(len(tasks), 'task')} × {_count(len(study.seeds), 'seed')}; and "
        f"{_count(len(plan.references), 'reference')}"
    )
    if (read := (plan.total - len(plan.references)) // each - plan.trainings) > 0:
        axes = " and ".join(plan.along.axes)
        yield f"{_count(read, 'more configuration')} along these trainings, with other values of {axes}"
    yield f"dataset {study.data.name}, normal: {', '.join(dict.fromkeys(task.normal_class for task in tasks))}"
    for name, own in study.detectors.items():
        epochs = f"{own.epochs_wanted} epochs at most" if own.epochs_wanted else "fitted at once"
        yield f"{DETECTORS[name].title}: {epochs}"
    store = f" and {study.storage}" if is_url(study.storage) else ""
    yield f"results would go to {folder / study.name}{store}"
    yield from (f"search axis {name} has no effect: {why}" for name, why in space.inert_axes(file).items())
    if (note := space.validation_note(study)) is not None:
        yield note
    datasets.fingerprint(study.data)  # finds missing or damaged files
    yield from (f"note: {note}" for note in notes(study))
    images = {task: datasets.split_sizes(study.data, task) for task in tasks}
    yield f"images of a task: {_in_words(list(images.values()))}"
    yield from _costs(plan, images)


def _costs(plan: Plan, images: Mapping[TaskSpec, SplitSizes]) -> Iterator[str]:
    """Yield the lines on time and disk, from a few steps of each detector's own configuration on the first task."""
    study = plan.study
    threads = torch.get_num_threads()
    claim_cpus(study.resources.cpu)
    try:
        speeds = {}
        for planned in (planned for planned in plan.configurations if planned.default):
            spec = planned.trials[0]
            task = datasets.load_task(study.data, spec.task)
            speeds[spec.detector] = measured(spec, task, images[spec.task], granted_device(study.resources.gpu))
    finally:
        torch.set_num_threads(threads)
    yield _time(plan, images, speeds)
    yield _disk(plan, images, speeds)


def _time(plan: Plan, images: Mapping[TaskSpec, SplitSizes], speeds: Mapping[str, Speed]) -> str:
    study, (known, unknown) = plan.study, plan.left()
    slots = at_once(study.resources, study.max_concurrent)

    def seconds_of(spec: TrialSpec) -> Work:
        costs = costs_of(spec, images[spec.task])
        return trial_work(spec, images[spec.task], speeds.get(spec.detector, ROUGHLY).seconds(costs))

    works = [training_work([(trial, seconds_of(trial)) for trial in trials]) for trials in by_training(known)]
    each = fmean(works[len(plan.references) :])
    seconds = START_SECONDS + until_done((), works + unknown * [each], slots)
    parts = {
        "attacks": study.attacks,
        "corruptions": study.corruptions,
        "racing": plan.racing,
        "stopping": plan.stopping,
    }
    without = ", ".join(name for name, part in parts.items() if part is not None)
    return (
        f"time: about {_about(seconds)} on this machine, {_count(slots, 'trial')} at once, a training about "
        f"{_about(each)}"
        + (", assuming that every configuration takes as long as the study's own" if plan.wanted > 1 else "")
        + (f"; {without} not counted" if without else "")
        + ("; fused trainings counted as if each ran alone" if plan.fusing.together > 1 else "")
    )


def _disk(plan: Plan, images: Mapping[TaskSpec, SplitSizes], speeds: Mapping[str, Speed]) -> str:
    (known, unknown), default = plan.left(), plan.configurations[0]

    def kept_of(trial: TrialSpec) -> int:
        views = costs_of(trial, images[trial.task]).views
        weights = speeds[trial.detector].weights if trial.detector in speeds else 0
        return TRIAL_BYTES + FLOAT_BYTES * scored_images(images[trial.task]) * views + weights

    best = len(default.trials) * max(speed.weights for speed in speeds.values())
    kept = sum(map(kept_of, known)) + unknown * plan.along.usual() * kept_of(default.trials[0]) + best
    running = min(at_once(plan.study.resources, plan.study.max_concurrent), plan.total)
    checkpoints = running * KEPT * max(speed.checkpoint for speed in speeds.values())
    return f"disk: about {_size(kept + REPORT_BYTES)}, and {_size(checkpoints)} for checkpoints while it runs"


@dataclass(frozen=True)
class Speed:
    """A detector's multiply-adds per second in fitting and scoring, and its size in bytes."""

    fit: float
    score: float
    weights: int = 0
    checkpoint: int = 0

    def seconds(self, costs: Costs) -> Costs:
        return Costs(costs.fit / self.fit, costs.epoch / self.fit, costs.score / self.score, costs.views)


ROUGHLY = Speed(fit=DISTANCE_ADDS, score=DISTANCE_ADDS)


def measured(spec: TrialSpec, task: Task, sizes: SplitSizes, device: torch.device) -> Speed:
    """Return a detector's speed, from an epoch on a few images or its whole fit, and from scoring a few."""
    costs, images = costs_of(spec, sizes), task.train.to(device)
    try:
        if costs.epoch and spec.settings.own.epochs_wanted:
            found = [_first_epoch(build(spec, task, device), images[:FEWEST])]
            # The first steps warm up; if a short epoch is too inaccurate, a longer one is measured.
            more = min(len(images), max(FEWEST, int(FEWEST * MEASURED_SECONDS / max(found[0].seconds, 1e-3))))
            found.append(_first_epoch(build(spec, task, device), images[:more]))
            fitted = found[-1]
            fit = more * costs.epoch / fitted.seconds
        else:
            augmented = Augmentation(spec.settings.data.augment, spec.training_seed).with_copies(images)
            fitted = _first_epoch(build(spec, task, device), augmented)
            fit = max(costs.fit, 1.0) / fitted.seconds
        score = min(len(images), FEWEST) * costs.score / _seconds(fitted.detector, images[:FEWEST])
    except (TrainingDiverged, RuntimeError, MemoryError) as error:
        if not isinstance(error, TrainingDiverged) and not is_out_of_memory(error):
            raise
        raise UserError(failure_sentence(error, spec, device)) from error
    return Speed(fit, score, _bytes(fitted.detector.state_dict()), _bytes(fitted.state))


class _Enough(Exception):
    """Raised when the measured epoch is over."""


class _FirstEpoch(Run):
    """Times the first epoch of a fit, or a fit without epochs, and measures its checkpoint."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.state = detector, dict[str, Any]()
        self.seconds, self._started = 0.0, time.perf_counter()

    def epoch(self, row: dict[str, float], state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        self.end()
        self.state = state()
        raise _Enough

    def end(self) -> None:
        self.seconds = max(time.perf_counter() - self._started, 1e-6)


def _first_epoch(detector: Detector, images: Tensor) -> _FirstEpoch:
    run = _FirstEpoch(detector)
    with contextlib.suppress(_Enough):
        detector.fit(images, run)
        run.end()
    return run


def _seconds(detector: Detector, images: Tensor) -> float:
    """Return the seconds for scoring some images, after a warm-up."""
    found: list[float] = []
    while not found or sum(found) < MEASURED_SECONDS / 4:
        started = time.perf_counter()
        detector.error_matrix(images).cpu()
        found.append(time.perf_counter() - started)
    return found[-1]


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
