"""One trial, from configuration to record: runs in a plain process, resumes at any epoch, knows nothing of Ray."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puzzle_study import config, datasets, metrics, puzzles
from puzzle_study.datasets import Task, TaskSpec
from puzzle_study.detectors import checkpoint, scoring
from puzzle_study.detectors.puzzle_ae import PuzzleDetector, Shape
from puzzle_study.detectors.references import fit_reference
from puzzle_study.detectors.training import Trainer, TrainingDiverged
from puzzle_study.devices import resolve_precision
from puzzle_study.errors import UserError
from puzzle_study.pseudo_anomalies import make_pseudo_anomalies
from puzzle_study.results import RECORD_FORMAT, Results, content_key, write_json

PUZZLE_AE = "puzzle_ae"
UNTRAINED = "untrained"
PSEUDO_PER_IMAGE = 5
EVALUATION_ONLY = ("error", "aggregation")
log = logging.getLogger(__name__)

EpochCallback = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrialSpec:
    """What determines a trial: detector, configuration, task, seed and the images themselves.

    Attributes:
        detector: ``puzzle_ae`` or the name of a reference.
        settings: the configuration; its evaluation-only settings do not count.
        task: which one-class problem.
        seed: training seed.
        fingerprint: content of the data set.
    """

    detector: str
    settings: config.Settings
    task: TaskSpec
    seed: int
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain values, to be sent to a worker."""
        return {
            "detector": self.detector,
            "settings": self.settings.model_dump(mode="json", by_alias=True),
            "task": asdict(self.task),
            "seed": self.seed,
            "fingerprint": self.fingerprint,
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> TrialSpec:
        """Return what :meth:`to_json` described."""
        settings = config.Settings.model_validate(content["settings"])
        task = TaskSpec(**content["task"])
        return TrialSpec(content["detector"], settings, task, content["seed"], content["fingerprint"])

    @property
    def configuration(self) -> str:
        """Name of the configuration: the hash of what determines training, or the name of the reference."""
        if self.detector != PUZZLE_AE:
            return self.detector
        return content_key(trained_settings(self.settings), length=8)

    @property
    def key(self) -> str:
        """Name of the trial, under which everything it leaves is kept."""
        settings = trained_settings(self.settings)
        if self.detector not in (PUZZLE_AE, UNTRAINED):
            settings = {"data": settings["data"]}
        return content_key(
            {
                "format": RECORD_FORMAT,
                "detector": self.detector,
                "settings": settings,
                "task": asdict(self.task),
                "seed": self.seed,
                "data": self.fingerprint,
            }
        )


def trained_settings(settings: config.Settings) -> dict[str, Any]:
    """Return the settings that training and error matrices depend on, in one form for equal trainings.

    What cannot matter is left out: aggregation and norm, where the files are, a discriminator that is never built,
    a step size of FGSM that leaves only the sign.
    """
    content = settings.model_dump(mode="json", by_alias=True)
    del content["variant"]
    for name in EVALUATION_ONLY:
        del content["score"][name]
    for name in ("root", "normal_classes", "repeats"):
        del content["data"][name]
    inert = inert_settings(settings)
    for dotted in inert:
        section, _, name = dotted.rpartition(".")
        holder = content
        for part in section.split("."):
            holder = holder[part]
        holder.pop(name, None)
    return content


def inert_settings(settings: config.Settings) -> dict[str, str]:
    """Return the settings that cannot change this configuration's training, each with the reason."""
    train, adversary = settings.train, settings.train.adversary
    inert: dict[str, str] = {}

    def mark(reason: str, *names: str) -> None:
        inert.update(dict.fromkeys(names, reason))

    if train.lambda_ == 0:
        mark(
            "train.lambda is 0 and no discriminator is built",
            "train.feature_loss",
            "train.discriminator_learning_rate",
            "model.discriminator_channels",
        )
    fields = [f"train.adversary.{name}" for name in config.Adversary.model_fields if name != "method"]
    if adversary.method == "none":
        mark("train.adversary.method is none", *fields)
    elif adversary.method == "fgsm":
        mark("one step has no number of steps", "train.adversary.steps")
        if adversary.alpha >= 2 * adversary.epsilon:
            mark("FGSM with α ≥ 2ε is ε·sign of the gradient whatever α is", "train.adversary.alpha")
    if train.schedule != "plateau":
        mark(f"train.schedule is {train.schedule}", "train.plateau_factor", "train.plateau_patience")
    # The seed draws nine-piece permutations, and those of scoring where score.permutations is a number.
    seed = ("puzzle.seed",) if settings.score.permutations == "all" else ()
    if settings.puzzle.kind == "rotation":
        mark("images are turned, not cut", "puzzle.grid", "puzzle.permutations", "puzzle.count", *seed)
    elif settings.puzzle.grid == 2 or settings.puzzle.permutations == "two_swapped":
        mark("permutations are drawn for nine pieces only", "puzzle.count", *seed)
    return inert


def run(
    spec: TrialSpec, results: Results, *, device: torch.device, on_epoch: EpochCallback | None = None
) -> dict[str, Any]:
    """Run a trial, from its last checkpoint where there is one, and write its record.

    Error matrices and the detector are written before the record, which makes the trial count as finished.

    Args:
        spec: the trial.
        results: folder of the study.
        device: where to train.
        on_epoch: called after every epoch with its row of epochs.parquet.

    Returns:
        The record. A training that diverged or a setting that does not fit the images gives a record of a
        failed trial; other exceptions are not the trial's and go on to the caller.
    """
    started = time.perf_counter()
    base = _description(spec)
    try:
        task = _load(spec.settings.data, spec.task, spec.fingerprint)
        if spec.detector in (PUZZLE_AE, UNTRAINED):
            outcome = _run_puzzle_ae(spec, task, results, device=device, on_epoch=on_epoch)
        else:
            outcome = _run_reference(spec, task, results)
        record = base | {"status": "finished", "error": ""} | outcome
    except (TrainingDiverged, UserError, torch.OutOfMemoryError) as error:
        record = base | {"status": "failed", "error": _sentence(error, spec)}
        log.error("trial %s failed: %s", spec.key, record["error"])
    record["seconds"] = time.perf_counter() - started
    write_json(results.record_file(spec.key), record)
    shutil.rmtree(results.checkpoints(spec.key), ignore_errors=True)
    return record


def failed_record(spec: TrialSpec, reason: str) -> dict[str, Any]:
    """Return the record of a trial that could not write one itself."""
    return _description(spec) | {"status": "failed", "error": reason, "seconds": 0.0}


def resolve_reference(name: str, settings: config.Settings) -> config.Settings:
    """Return the configuration that a reference stands beside; the untrained network is trained for 0 epochs."""
    if name != UNTRAINED:
        return settings
    train = settings.train.model_copy(update={"epochs": 0, "lambda_": 0.0})
    return settings.model_copy(update={"train": train})


@lru_cache(maxsize=4)
def _load(data: config.Data, task: TaskSpec, fingerprint: str) -> Task:
    """Load a task once per worker process; the fingerprint makes changed files another task."""
    return datasets.load_task(data, task)


def _run_puzzle_ae(
    spec: TrialSpec, task: Task, results: Results, *, device: torch.device, on_epoch: EpochCallback | None
) -> dict[str, Any]:
    settings = spec.settings
    precision = resolve_precision(settings.train.precision, device)
    training_set = puzzles.puzzle_set(settings.puzzle, normal_class=spec.task.normal_class, dataset=spec.task.dataset)
    _, channels, height, width = task.train.shape
    trainer = Trainer(
        settings,
        training_set,
        channels=channels,
        height=height,
        width=width,
        seed=spec.seed,
        device=device,
        precision=precision,
    )
    detector = PuzzleDetector(
        trainer.network,
        scoring_set(settings, training_set),
        shape=Shape(channels, height, width, settings.model.base_channels),
        score=settings.score,
        precision=precision,
    ).to(device)
    train, validation = task.train.to(device), task.validation.to(device)
    evaluation = _EvaluationSubset.of(task, settings.evaluate.max_images, device)
    folder = results.checkpoints(spec.key)
    history: list[dict[str, float]] = []
    train_seconds = evaluation_seconds = 0.0
    if (state := checkpoint.load_newest(folder, device)) is not None:
        trainer.restore(state["trainer"])
        history = list(state["history"])
        train_seconds, evaluation_seconds = state["train_seconds"], state["evaluation_seconds"]
    while not trainer.finished:
        started = time.perf_counter()
        row: dict[str, float] = asdict(trainer.epoch(train))
        train_seconds += time.perf_counter() - started
        if trainer.epochs_done % settings.evaluate.every == 0 or trainer.finished:
            started = time.perf_counter()
            row |= evaluation.auroc(detector, validation)
            evaluation_seconds += time.perf_counter() - started
        history.append(row)
        state = {
            "trainer": trainer.state(),
            "history": history,
            "train_seconds": train_seconds,
            "evaluation_seconds": evaluation_seconds,
        }
        checkpoint.save(folder, trainer.epochs_done, state)
        if on_epoch is not None:
            on_epoch(row)
    started = time.perf_counter()
    pseudo = make_pseudo_anomalies(validation, per_image=PSEUDO_PER_IMAGE, seed=settings.data.split_seed)
    detector.calibrate(validation)
    errors = {
        "validation": detector.validation_NK,
        "pseudo": detector.error_matrix(pseudo.images),
        "test": detector.error_matrix(task.test),
    }
    arrays = {name: error_NK.cpu().numpy() for name, error_NK in errors.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise TrainingDiverged(
            f"reconstruction errors are not finite after epoch {trainer.epochs_done}; lower train.learning_rate"
        )
    score_seconds = time.perf_counter() - started
    outcome: dict[str, Any] = {
        "epochs": trainer.epochs_done,
        "images_seen": trainer.epochs_done * len(train),
        "train_seconds": train_seconds,
        "evaluation_seconds": evaluation_seconds,
        "score_seconds": score_seconds,
        "images_per_second": trainer.epochs_done * len(train) / train_seconds if train_seconds else None,
        "precision": precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "k": len(detector.puzzle_set),
        "permutations": detector.puzzle_set.permutations,
        "history": _columns(history),
    } | _finish(spec, task, arrays, pseudo.kinds, results)
    _save_detector(spec, detector, results)
    return outcome


def _run_reference(spec: TrialSpec, task: Task, results: Results) -> dict[str, Any]:
    started = time.perf_counter()
    score = fit_reference(spec.detector, task.train.numpy())
    train_seconds = time.perf_counter() - started
    started = time.perf_counter()
    pseudo = make_pseudo_anomalies(task.validation, per_image=PSEUDO_PER_IMAGE, seed=spec.settings.data.split_seed)
    arrays = {
        name: score(images.numpy()).astype(np.float32)[:, None]
        for name, images in (("validation", task.validation), ("pseudo", pseudo.images), ("test", task.test))
    }
    outcome: dict[str, Any] = {
        "epochs": 0,
        "images_seen": len(task.train),
        "train_seconds": train_seconds,
        "evaluation_seconds": 0.0,
        "score_seconds": time.perf_counter() - started,
        "images_per_second": None,
        "precision": "float32",
        "device": "cpu",
        "k": 1,
        "permutations": None,
        "history": {},
    }
    return outcome | _finish(spec, task, arrays, pseudo.kinds, results)


def scoring_set(settings: config.Settings, training_set: puzzles.PuzzleSet) -> puzzles.PuzzleSet:
    """Return the puzzle set of scoring: that of training, all 23, or the first n of either."""
    chosen = training_set
    if settings.score.puzzle_set == "all" and training_set.kind == "jigsaw" and training_set.grid == 2:
        chosen = puzzles.PuzzleSet("jigsaw", 2, puzzles.all_permutations())
    if settings.score.permutations != "all":
        chosen = chosen.first(settings.score.permutations, seed=settings.puzzle.seed)
    return chosen


@dataclass(frozen=True)
class _EvaluationSubset:
    """The test images on which the AUROC is followed along training."""

    images: Tensor
    labels: np.ndarray

    @staticmethod
    def of(task: Task, max_images: int | None, device: torch.device) -> _EvaluationSubset:
        index = torch.arange(len(task.test))
        if max_images is not None and max_images < len(task.test):
            index = torch.as_tensor(datasets.stratified(task.test_classes, max_images, seed=0))
        return _EvaluationSubset(task.test[index].to(device), task.labels[index].numpy())

    def auroc(self, detector: PuzzleDetector, validation: Tensor) -> dict[str, float]:
        """Return the AUROC by error norm and aggregation, NaN where the errors are not finite."""
        validation_NK, test_NK = detector.error_matrix(validation), detector.error_matrix(self.images)
        values = {}
        for error in scoring.ERROR_NORMS:
            for aggregation in scoring.AGGREGATIONS:
                score_N = scoring.scores(test_NK, validation_NK, error=error, aggregation=aggregation).cpu().numpy()
                finite = bool(np.isfinite(score_N).all())
                values[f"auroc_{aggregation}_{error}"] = metrics.auroc(score_N, self.labels) if finite else math.nan
        return values


def _finish(
    spec: TrialSpec, task: Task, arrays: dict[str, np.ndarray], kinds: tuple[str, ...], results: Results
) -> dict[str, Any]:
    """Write the error matrices and return their metrics, for every norm and aggregation."""
    labels = task.labels.numpy()
    results.write_errors(
        spec.key,
        arrays
        | {
            "pseudo_kind": np.array(kinds),
            "labels": labels,
            "classes": np.array(task.test_classes),
            "names": np.array(task.test_names),
        },
    )
    validation, pseudo, test = (torch.from_numpy(arrays[name]) for name in ("validation", "pseudo", "test"))
    pseudo_labels = np.repeat([False, True], [len(validation), len(pseudo)])
    by_norm: dict[str, Any] = {}
    for error in scoring.ERROR_NORMS:
        by_norm[error] = {}
        for aggregation in scoring.AGGREGATIONS:
            score = {
                name: scoring.scores(matrix, validation, error=error, aggregation=aggregation).numpy()
                for name, matrix in (("validation", validation), ("pseudo", pseudo), ("test", test))
            }
            by_norm[error][aggregation] = asdict(metrics.evaluate(score["test"], labels, seed=0)) | {
                "selection": metrics.auroc(np.concatenate((score["validation"], score["pseudo"])), pseudo_labels)
            }
    return {
        "metrics": by_norm,
        "val_error": float(validation.mean()),
        "n_train": len(task.train),
        "n_validation": len(task.validation),
        "n_test": len(labels),
        "n_anomalies": int(labels.sum()),
    }


def _save_detector(spec: TrialSpec, detector: PuzzleDetector, results: Results) -> None:
    folder = results.detector(spec.key)
    folder.mkdir(parents=True, exist_ok=True)
    detector.save(folder, _description(spec))


def _description(spec: TrialSpec) -> dict[str, Any]:
    return spec.to_json() | {"format": RECORD_FORMAT, "trial": spec.key, "configuration": spec.configuration}


def _columns(history: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """Turn rows into columns for JSON; what an epoch has not is None."""
    names = list(dict.fromkeys(name for row in history for name in row))
    return {
        name: [None if math.isnan(value := row.get(name, math.nan)) else value for row in history] for name in names
    }


def _sentence(error: BaseException, spec: TrialSpec) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"training with train.batch_size {spec.settings.train.batch_size} and model.base_channels "
            f"{spec.settings.model.base_channels} does not fit the GPU's memory ({str(error).splitlines()[0]}); "
            f"lower one of them"
        )
    return str(error)
