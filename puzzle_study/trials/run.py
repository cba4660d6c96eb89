"""One trial, from configuration to record: runs in a plain process, resumes at any epoch, knows nothing of Ray."""

from __future__ import annotations

import logging
import math
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puzzle_study import config, datasets
from puzzle_study.criteria.pseudo_anomalies import make_pseudo_anomalies
from puzzle_study.datasets import Task, TaskSpec
from puzzle_study.datasets.subset import chosen_images
from puzzle_study.detectors import checkpoint, scoring
from puzzle_study.detectors.devices import resolve_precision
from puzzle_study.detectors.memory import first_line, is_out_of_memory, needed_gib
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector, Shape
from puzzle_study.detectors.puzzle_ae.rules import scored_by_all
from puzzle_study.detectors.puzzle_ae.training import Trainer, TrainingDiverged
from puzzle_study.detectors.references import fit_reference
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import flagged_shares
from puzzle_study.results import Results, write_json
from puzzle_study.statistics import metrics
from puzzle_study.trials.log import trial_log
from puzzle_study.trials.spec import PUZZLE_AE, UNTRAINED, TrialSpec, describe

log = logging.getLogger(__name__)

EpochCallback = Callable[[dict[str, float]], None]


def run(
    spec: TrialSpec,
    results: Results,
    *,
    device: torch.device,
    on_epoch: EpochCallback | None = None,
    images: config.Data | None = None,
) -> dict[str, Any]:
    """Run a trial, from its last checkpoint where there is one, and write its record.

    Error matrices and the detector are written before the record, which makes the trial count as finished. What
    happens on the way is written to the trial's log.

    Args:
        spec: the trial.
        results: folder of the study.
        device: where to train.
        on_epoch: called after every epoch with its row of epochs.parquet.
        images: the study's data section, whose images must be those of the specification's fingerprint; None: they
            are not looked at. A trial's own section may be another one, in a search over `data.size`.

    Returns:
        The record. A training that diverged, a setting that does not fit the images, other images or too little memory
        gives a record of a failed trial; other exceptions are not the trial's and go on to the caller.
    """
    with trial_log(results.log_file(spec.key)):
        try:
            return _run_logged(spec, results, device=device, on_epoch=on_epoch, images=images)
        except Exception:
            log.exception("trial %s stopped", spec.key)
            raise


def check_images(images: config.Data, fingerprint: str) -> None:
    """Refuse to work on a node whose images are not the study's: what it made would lie under the key of theirs.

    Raises:
        UserError: they are not.
    """
    if _fingerprint(images) != fingerprint:
        raise UserError(
            f"the images in data.root on {socket.gethostname()} are not those that the study was started with; "
            f"copy the same there and go on with --resume"
        )


@lru_cache(maxsize=1)
def _fingerprint(images: config.Data) -> str:
    """Look at the files once per worker process."""
    return datasets.fingerprint(images)


def _run_logged(
    spec: TrialSpec,
    results: Results,
    *,
    device: torch.device,
    on_epoch: EpochCallback | None,
    images: config.Data | None,
) -> dict[str, Any]:
    clock = _Clock()
    base = describe(spec)
    log.info(
        "trial %s: %s, configuration %s, %s, normal class %s, repeat %d, seed %d, on %s",
        *(spec.key, spec.detector, spec.configuration, spec.task.dataset, spec.task.normal_class, spec.task.repeat),
        *(spec.seed, device),
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        if images is not None:
            check_images(images, spec.fingerprint)
        task = _load(spec.settings.data, spec.task, spec.fingerprint)
        if spec.detector in (PUZZLE_AE, UNTRAINED):
            outcome = _run_puzzle_ae(spec, task, results, clock, device=device, on_epoch=on_epoch)
        else:
            outcome = _run_reference(spec, task, results)
        record = base | {"status": "finished", "error": ""} | outcome
    except (TrainingDiverged, UserError, RuntimeError, MemoryError) as error:
        if not isinstance(error, (TrainingDiverged, UserError)) and not is_out_of_memory(error):
            raise
        sentence = failure_sentence(error, spec, device)
        log.error("trial %s failed: %s", spec.key, sentence, exc_info=error)
        record = base | {"status": "failed", "error": f"{sentence} (see logs/{spec.key}.log)"}
        if isinstance(error, UserError):
            record["user_error"] = sentence
        if isinstance(error, UserError):
            record["user_error"] = sentence
    record["seconds"] = clock.seconds
    write_json(results.record_file(spec.key), record)
    log.info("trial %s %s after %.1f s", spec.key, record["status"], record["seconds"])
    shutil.rmtree(results.checkpoints(spec.key), ignore_errors=True)
    return record


class _Clock:
    """Wall time of a trial over all the processes that worked on it."""

    def __init__(self) -> None:
        self.earlier, self._started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """What earlier processes took up to the checkpoint that this one went on from, and this one until now."""
        return self.earlier + time.perf_counter() - self._started


@lru_cache(maxsize=4)
def _load(data: config.Data, task: TaskSpec, fingerprint: str) -> Task:
    """Load a task once per worker process; the fingerprint makes changed files another task."""
    return datasets.load_task(data, task)


def _run_puzzle_ae(
    spec: TrialSpec,
    task: Task,
    results: Results,
    clock: _Clock,
    *,
    device: torch.device,
    on_epoch: EpochCallback | None,
) -> dict[str, Any]:
    settings = spec.settings
    trainer, detector = build(spec, task, device)
    train, validation = task.train.to(device), task.validation.to(device)
    pseudo = make_pseudo_anomalies(task.validation, seed=settings.data.split_seed)
    evaluation = _EvaluationSubset.of(task, settings.evaluate.max_images, device)
    followed = pseudo.images.to(device) if settings.evaluate.selection else None
    folder = results.checkpoints(spec.key)
    history: list[dict[str, float]] = []
    train_seconds = evaluation_seconds = 0.0
    if (state := checkpoint.load_newest(folder)) is not None:
        trainer.restore(state["trainer"])
        history = list(state["history"])
        log.info("going on after epoch %d", trainer.epochs_done)
        train_seconds, evaluation_seconds = state["train_seconds"], state["evaluation_seconds"]
        # Checkpoints from before it was kept still count the work that they hold.
        clock.earlier = state.get("seconds", train_seconds + evaluation_seconds)
    while not trainer.finished:
        started = time.perf_counter()
        row: dict[str, float] = asdict(trainer.epoch(train))
        train_seconds += time.perf_counter() - started
        if trainer.epochs_done % settings.evaluate.every == 0 or trainer.finished:
            started = time.perf_counter()
            row |= evaluation.auroc(detector, validation, followed)
            evaluation_seconds += time.perf_counter() - started
        history.append(row)
        state = {
            "trainer": trainer.state(),
            "history": history,
            "train_seconds": train_seconds,
            "evaluation_seconds": evaluation_seconds,
            "seconds": clock.seconds,
        }
        checkpoint.save(folder, trainer.epochs_done, state)
        log.info(
            "%s",
            ", ".join(
                f"{name} {value:.6g}" for name, value in row.items() if not name.startswith(("auroc_", "selection_"))
            ),
        )
        if on_epoch is not None:
            on_epoch(row)
    started = time.perf_counter()
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
        "precision": trainer.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "k": len(detector.puzzle_set),
        "permutations": detector.puzzle_set.permutations,
        "history": _columns(history),
    } | _finish(spec, task, arrays, pseudo.kinds, results)
    if settings.evaluate.robust is not None:
        # torchattacks is imported only where a trial attacks.
        from puzzle_study.trials.robust import measure_robustness

        for (error, aggregation), values in measure_robustness(
            detector, task, arrays, settings.evaluate.robust
        ).items():
            outcome["metrics"][error][aggregation] |= values
    _save_detector(spec, detector, results)
    return outcome


def build(spec: TrialSpec, task: Task, device: torch.device) -> tuple[Trainer, PuzzleDetector]:
    """Return what trains a trial, and the detector that scores by the network in training."""
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
        seed=spec.training_seed,
        device=device,
        precision=precision,
    )
    detector = PuzzleDetector(
        trainer.solver,
        scoring_set(settings, training_set),
        shape=Shape(channels, height, width, settings.model.base_channels),
        score=settings.score,
        precision=precision,
    )
    return trainer, detector.to(device)


def _run_reference(spec: TrialSpec, task: Task, results: Results) -> dict[str, Any]:
    started = time.perf_counter()
    score = fit_reference(spec.detector, task.train.numpy())
    train_seconds = time.perf_counter() - started
    started = time.perf_counter()
    pseudo = make_pseudo_anomalies(task.validation, seed=spec.settings.data.split_seed)
    arrays = {
        name: score(images.numpy()).astype(np.float32)[:, None] if len(images) else np.empty((0, 1), np.float32)
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
    if scored_by_all(settings):
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
        images, labels = chosen_images(task, max_images)
        return _EvaluationSubset(images.to(device), labels.numpy())

    def auroc(self, detector: PuzzleDetector, validation: Tensor, pseudo: Tensor | None) -> dict[str, float]:
        """Return the AUROC by error norm and aggregation, NaN if errors are not finite or the test lacks a side.

        With pseudo-anomalies also the selection criterion: validation images against them, without test labels.
        """
        validation_NK = detector.error_matrix(validation)
        followed = {}
        if not metrics.lacking(len(self.labels), int(self.labels.sum())):
            followed["auroc"] = detector.error_matrix(self.images), self.labels
        if pseudo is not None:
            matrix = torch.cat((validation_NK, detector.error_matrix(pseudo)))
            followed["selection"] = matrix, np.repeat([False, True], [len(validation), len(pseudo)])
        values = {f"auroc_{a}_{error}": math.nan for error in scoring.ERROR_NORMS for a in scoring.AGGREGATIONS}
        for name, (error_NK, labels) in followed.items():
            for error in scoring.ERROR_NORMS:
                for aggregation in scoring.AGGREGATIONS:
                    score_N = scoring.scores(error_NK, validation_NK, error=error, aggregation=aggregation).cpu()
                    finite = bool(score_N.isfinite().all())
                    values[f"{name}_{aggregation}_{error}"] = (
                        metrics.auroc(score_N.numpy(), labels) if finite else math.nan
                    )
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
            "classes": np.array(task.test_classes, dtype=np.str_),
            "names": np.array(task.test_names, dtype=np.str_),
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
            evaluation = metrics.evaluate(score["test"], labels, seed=0)
            measured = asdict(evaluation) if evaluation else dict.fromkeys(f.name for f in fields(metrics.Evaluation))
            flagged = flagged_shares(score["validation"], score["test"], labels)
            selection = metrics.auroc(np.concatenate((score["validation"], score["pseudo"])), pseudo_labels)
            by_norm[error][aggregation] = {**measured, **flagged, "selection": selection}
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
    sizes = datasets.training_sizes(spec.settings.data, spec.task)
    detector.save(folder, describe(spec) | {"original_sizes": asdict(sizes) if sizes else None})


def _columns(history: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """Turn rows into columns for JSON; what an epoch has not is None."""
    names = list(dict.fromkeys(name for row in history for name in row))
    return {
        name: [None if math.isnan(value := row.get(name, math.nan)) else value for row in history] for name in names
    }


def failure_sentence(error: BaseException, spec: TrialSpec, device: torch.device) -> str:
    """Return why a training failed, in one sentence."""
    if is_out_of_memory(error):
        settings = spec.settings
        return (
            f"training with train.batch_size {settings.train.batch_size} and model.base_channels "
            f"{settings.model.base_channels} does not fit the memory: it needed at least "
            f"{needed_gib(error, device):.1f} GiB ({first_line(error)}); lower one of them, or run fewer trials at once"
        )
    return str(error)
