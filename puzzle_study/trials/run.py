"""One trial, from its configuration to its record: runs in a plain process and resumes at any epoch, without Ray."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puzzle_study import config, datasets
from puzzle_study.criteria.bank import PseudoAnomalies, make_pseudo_anomalies
from puzzle_study.datasets import Task, TaskSpec
from puzzle_study.detectors import checkpoint, files, scoring
from puzzle_study.detectors.base import Context, Detector, Shape, TrainingDiverged
from puzzle_study.detectors.devices import resolve_precision
from puzzle_study.detectors.memory import first_line, is_out_of_memory, needed_gib
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.inference.drift import Appearance
from puzzle_study.results import Results
from puzzle_study.trials.augmenting import Augmentation
from puzzle_study.trials.corrupted import measure_corrupted
from puzzle_study.trials.following import Clock, EpochCallback, FollowedImages, Following
from puzzle_study.trials.locating import measure_maps
from puzzle_study.trials.log import trial_log
from puzzle_study.trials.reading import metrics_of
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec

log = logging.getLogger(__name__)

FEWEST, LOOKED_AT = 8, 32
"""Validation images that are scored a second time: none if there are fewer, and no more."""


def run(
    spec: TrialSpec,
    results: Results,
    *,
    device: torch.device,
    on_epoch: EpochCallback | None = None,
    images: config.Data | None = None,
) -> Record:
    """Run a trial, from its last checkpoint if there is one, and write its record.

    Error matrices and the detector are written before the record, which makes the trial count as finished. The trial's
    log tells what happened.

    Args:
        spec: the trial.
        results: folder of the study.
        device: where to train.
        on_epoch: called after every epoch with its row of epochs.parquet.
        images: the study's data section, whose images must have the fingerprint of the trial; None: not checked. In a
            search over `data.size` the trial's own section is another one.

    Returns:
        The record. A training that diverged, a setting that does not fit the images, other images or too little memory
        gives a record of a failed trial; other exceptions are not the trial's and are passed on.
    """
    trial = Trial(spec, results, device=device, on_epoch=on_epoch, images=images)
    with trial.working():
        trial.begin()
        trial.fit()
        trial.finish()
    return trial.ended


class Trial:
    """A trial on its way to its record: begun, fitted, and finished, or failed at any of these.

    Takes the arguments of :func:`run`.
    """

    def __init__(
        self,
        spec: TrialSpec,
        results: Results,
        *,
        device: torch.device,
        on_epoch: EpochCallback | None = None,
        images: config.Data | None = None,
    ) -> None:
        self.spec, self.results, self.device = spec, results, device
        self.record: Record | None = None
        self.clock = Clock()
        self.on_epoch, self._images = on_epoch, images
        self._keeper: checkpoint.Keeper | None = None
        self._fit_seconds = 0.0

    @property
    def ended(self) -> Record:
        """The record, which a trial has once its work has ended without an exception of another kind."""
        assert self.record is not None
        return self.record

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Write the log of the work inside; the trial's own failures become its record, other exceptions pass."""
        spec = self.spec
        with trial_log(self.results.log_file(spec.key)):
            try:
                with self.saving():
                    yield
            except (TrainingDiverged, UserError, RuntimeError, MemoryError) as error:
                if not isinstance(error, (TrainingDiverged, UserError)) and not is_out_of_memory(error):
                    raise
                sentence = failure_sentence(error, spec, self.device)
                log.error("trial %s failed: %s", spec.key, sentence, exc_info=error)
                mended = sentence if isinstance(error, UserError) else ""
                seen = f"{sentence} (see logs/{spec.key}.log)"
                self._end(Record(spec, "failed", seen, self.clock.seconds, user_error=mended))
            except SystemExit:
                # Ray stopped the trial. If it got its record from that, nothing goes on from its checkpoints.
                if self.results.record(spec.key) is not None:
                    shutil.rmtree(self.results.checkpoints(spec.key), ignore_errors=True)
                raise
            finally:
                if self.device.type == "cuda":
                    # Another process on this GPU cannot use what PyTorch keeps for this one.
                    torch.cuda.empty_cache()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Let an exception that ends the work inside leave a checkpoint of the newest state."""
        try:
            yield
        except BaseException:
            self._close(failed=True)
            raise

    def _close(self, *, failed: bool) -> None:
        if self._keeper is not None:
            self._keeper.close(failed=failed)

    def begin(self, *, beside: int = 0, handed: dict[str, Any] | None = None) -> None:
        """Load the images and build the detector, ``beside`` others; a second time if what was built is used up.

        ``handed`` is the content of its last checkpoint, if another trial's training made it.
        """
        self._close(failed=True)
        self.clock = Clock()
        spec, device, settings = self.spec, self.device, self.spec.settings
        log.info(
            "trial %s: %s, configuration %s, %s, normal class %s, repeat %d, seed %d, on %s",
            *(spec.key, spec.detector, spec.configuration, spec.task.dataset, spec.task.normal_class, spec.task.repeat),
            *(spec.seed, device),
        )
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        if self._images is not None:
            check_images(self._images, spec.fingerprint)
        self.task = task = _load(settings.data, spec.task, spec.fingerprint)
        self.pseudo = _bank(settings.data, spec.task, spec.fingerprint)
        self.detector = build(spec, task, device)
        augmentation = Augmentation(settings.data.augment, spec.training_seed)
        train, self.validation = task.train.to(device), task.validation.to(device)
        self.train = train if self.detector.traits.epochs else augmentation.with_copies(train)
        followed = FollowedImages.of(task, settings.evaluate, self.validation, self.pseudo)
        self._keeper = checkpoint.Keeper(self.results.checkpoints(spec.key), trainings=1 + beside)
        self.following = Following(
            *(self.detector, settings.evaluate, followed, self._keeper, self.clock, self.on_epoch, augmentation),
            handed=handed,
        )

    def fit(self) -> None:
        """Fit the detector, from its last checkpoint if there is one."""
        started = time.perf_counter()
        self.detector.fit(self.train, self.following)
        self._fit_seconds = time.perf_counter() - started

    def finish(self) -> None:
        """Score all images, write error matrices and detector, and then the record."""
        detector, task, pseudo, spec, following = self.detector, self.task, self.pseudo, self.spec, self.following
        started = time.perf_counter()
        detector.calibrate(self.validation)
        arrays = _error_matrices(detector, pseudo.images, task, spec.settings.evaluate)
        score_seconds = time.perf_counter() - started
        _check(arrays, task, following.epochs)
        _check_reaction(detector, self.validation)
        self.results.write_errors(spec.key, arrays | {"earlier": following.earlier()} | _about(task, pseudo))
        readings = scoring.readings(spec.numbers_of_views)
        by_norm = metrics_of(arrays, pseudo.kinds, task.labels.numpy(), readings)
        for reading, values in _measured_besides(detector, task, arrays, pseudo, spec.settings.evaluate, readings):
            by_norm[reading.error][reading.aggregation] |= values
        _save(detector, spec, self.results.detector(spec.key), Appearance.of(self.validation))
        measured = self._measured(arrays) | {"score_seconds": score_seconds}
        self._close(failed=False)
        self._end(Record(spec, "finished", "", self.clock.seconds, measured, by_norm, following.columns()))

    def release(self) -> None:
        """Forget images and detector after the end, while other trials of the process go on."""
        for name in ("task", "pseudo", "detector", "train", "validation", "following"):
            self.__dict__.pop(name, None)

    def _measured(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the plain columns of the record."""
        detector, task, device, following = self.detector, self.task, self.device, self.following
        epochs, trained = following.epochs, detector.traits.epochs
        train_seconds = following.train_seconds if trained else self._fit_seconds
        return {
            "epochs": epochs,
            "images_scored": sum(map(len, arrays.values())),
            "images_seen": len(self.train) * (epochs if trained else 1),
            "train_seconds": train_seconds,
            "evaluation_seconds": following.evaluation_seconds,
            "images_per_second": epochs * len(self.train) / train_seconds if epochs and train_seconds else None,
            "precision": detector.precision,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "k": detector.views,
            "selection_k": arrays["pseudo"].shape[1],
            "described": detector.describe(),
            "val_error": float(arrays["validation"].mean()),
            "n_train": len(task.train),
            "n_validation": len(task.validation),
            "n_test": len(task.labels),
            "n_anomalies": int(task.labels.sum()),
            "n_masks": 0 if task.masks is None else int((task.masks > 0).any(2).any(1).sum()),
        }

    def _end(self, record: Record) -> None:
        """Write the record, which makes the trial count as ended."""
        self.record = record
        self.results.write_record(self.spec.key, record.to_json())
        log.info("trial %s %s after %.1f s", self.spec.key, record.status, record.seconds)
        shutil.rmtree(self.results.checkpoints(self.spec.key), ignore_errors=True)


def check_images(images: config.Data, fingerprint: str) -> None:
    """Refuse images that are not the study's: results would be stored under the wrong key."""
    if _fingerprint(images) != fingerprint:
        raise UserError(
            f"the images in data.root on {socket.gethostname()} differ from those that the study was started with; "
            f"copy the study's images there and continue with --resume"
        )


@lru_cache(maxsize=1)
def _fingerprint(images: config.Data) -> str:
    """Look at the files once per worker process."""
    return datasets.fingerprint(images)


@lru_cache(maxsize=4)
def _load(data: config.Data, task: TaskSpec, fingerprint: str) -> Task:
    """Load a task once per worker process; the fingerprint makes changed files another task."""
    return datasets.load_task(data, task)


@lru_cache(maxsize=4)
def _bank(data: config.Data, task: TaskSpec, fingerprint: str) -> PseudoAnomalies:
    """Make a task's pseudo-anomalies once per worker process: every detector is judged by the same."""
    return make_pseudo_anomalies(_load(data, task, fingerprint).validation, seed=data.split_seed)


def _measured_besides(
    detector: Detector,
    task: Task,
    arrays: dict[str, np.ndarray],
    pseudo: PseudoAnomalies,
    evaluate: config.Evaluate,
    readings: Sequence[config.Reading],
) -> Iterator[tuple[config.Reading, Mapping[str, Any]]]:
    """Yield what is measured by more than the error matrices: small attacks, corruptions, anomaly maps."""
    if evaluate.robust is not None:
        # torchattacks is imported only if a trial attacks.
        from puzzle_study.trials.robust import measure_robustness

        yield from measure_robustness(detector, task, arrays, pseudo.kinds, evaluate.robust, readings).items()
    if evaluate.corrupted is not None:
        yield from measure_corrupted(detector, task, pseudo.images, evaluate.corrupted, readings).items()
    yield from measure_maps(detector, task, readings).items()


def _error_matrices(detector: Detector, pseudo: Tensor, task: Task, evaluate: config.Evaluate) -> dict[str, np.ndarray]:
    matrices = {
        "validation": detector.validation_NK,
        "pseudo": detector.of_views(evaluate.views).error_matrix(pseudo),
        "test": detector.error_matrix(task.test),
    }
    return {name: error_NK.cpu().numpy() for name, error_NK in matrices.items()}


def _save(detector: Detector, spec: TrialSpec, folder: Path, appearance: Appearance) -> None:
    """Write a detector with what it was trained on, and how its validation images look."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = datasets.training_sizes(spec.settings.data, spec.task)
    about = {
        "trial": spec.key,
        "configuration": spec.configuration,
        "original_sizes": asdict(sizes) if sizes else None,
        "appearance": asdict(appearance),
    }
    files.save(detector, folder, spec.to_json() | about)


def build(spec: TrialSpec, task: Task, device: torch.device) -> Detector:
    """Return the detector of a trial, not fitted yet."""
    own = spec.settings.own
    context = Context(
        Shape(*task.train.shape[1:]),
        seed=spec.training_seed,
        device=device,
        precision=resolve_precision(own.precision_wanted, device),
        dataset=spec.task.dataset,
        normal_class=spec.task.normal_class,
    )
    return DETECTORS[spec.detector].build(own, context)


def _check(arrays: dict[str, np.ndarray], task: Task, epochs: int) -> None:
    """Raise TrainingDiverged if errors are not finite, or if all images have the same errors."""
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise TrainingDiverged(f"errors are not finite after epoch {epochs}; lower the learning rate")
    validation_NK = arrays["validation"]
    differ = bool((task.validation != task.validation[:1]).any())
    if differ and (validation_NK == validation_NK[:1]).all():
        raise TrainingDiverged(
            f"the detector has collapsed: {len(validation_NK)} different validation images have the same errors"
        )


def _check_reaction(detector: Detector, images_NCHW: Tensor) -> None:
    """Refuse a detector whose scores follow the place of an image in the batch, or chance, and not the image.

    Raises:
        TrainingDiverged: scores of the same images in another order differ as much as those of different images.
    """
    images_NCHW = images_NCHW[:LOOKED_AT]
    if len(images_NCHW) < FEWEST:
        return
    first_N = detector.scores(detector.validation_NK[: len(images_NCHW)])
    again_N = detector.scores(detector.error_matrix(images_NCHW.flip(0))).flip(0)
    if (again_N - first_N).square().mean() > first_N.var():
        raise TrainingDiverged(
            f"the detector's score does not react to the image: {len(images_NCHW)} validation images scored in another "
            f"order differ from themselves as much as from each other"
        )


def _about(task: Task, pseudo: PseudoAnomalies) -> dict[str, np.ndarray]:
    """Return what the rows of the error matrices are."""
    return {
        "pseudo_kind": np.array(pseudo.kinds),
        "pseudo_severity": np.array(pseudo.severities, dtype=np.uint8),
        "labels": task.labels.numpy(),
        "classes": np.array(task.test_classes, dtype=np.str_),
        "names": np.array(task.test_names, dtype=np.str_),
    }


def failure_sentence(error: BaseException, spec: TrialSpec, device: torch.device) -> str:
    if is_out_of_memory(error):
        large = DETECTORS[spec.detector].Settings.LARGE
        lower = f"lower {' or '.join(large)}" if large else "lower data.size"
        return (
            f"fitting {spec.detector} does not fit the memory: it needed at least {needed_gib(error, device):.1f} GiB "
            f"({first_line(error)}); {lower}, or run fewer trials at once"
        )
    return str(error)
