"""What the attack stage is cut into: units that run on their own and leave one record each.

A record holds what was measured. What follows from comparing records, such as flags, and names that may change
without a new attack, such as ``winner``, are added when tables are written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from puzzle_study import config, datasets
from puzzle_study.attacks.running import AttackResult, run_attacks
from puzzle_study.attacks.specs import AttackSpec
from puzzle_study.attacks.table import judged, named, row
from puzzle_study.attacks.transfer import aggregation_matrix, score_all, transferred
from puzzle_study.config import Reading
from puzzle_study.datasets.subset import chosen_images
from puzzle_study.detectors.base import Detector
from puzzle_study.detectors.files import load_detector
from puzzle_study.io import replacing, write_json
from puzzle_study.results import RECORD_FORMAT, Results, content_key
from puzzle_study.trials.spec import TrialSpec

EXAMPLES = 4
EXAMPLE_FIELDS = (
    "attacked_original",
    "attacked",
    "attacked_attack",
    "attacked_method",
    "attacked_epsilon",
    "attacked_score_before",
    "attacked_score_after",
)


class Unit(Protocol):
    """A piece of the attack stage: one record below its key."""

    @property
    def trial(self) -> TrialSpec:
        """The trial of the detector that is attacked."""

    @property
    def key(self) -> str:
        """Name of the record: the hash of all that determines it."""

    def run(self, results: Results, device: torch.device) -> None:
        """Attack and write the record; what stands beside it is written before it."""


@dataclass(frozen=True)
class MethodUnit:
    """One method of one attack with all its ε on one detector.

    Attributes:
        trial: the detector's trial.
        reading: how its errors are read.
        specs: the attacks.
        max_images: test images attacked at most.
    """

    trial: TrialSpec
    reading: Reading
    specs: tuple[AttackSpec, ...]
    max_images: int | None

    @property
    def key(self) -> str:
        """Name of the record."""
        return _key("method", self.trial, self.specs, self.max_images, reading=asdict(self.reading))

    def run(self, results: Results, device: torch.device) -> None:
        """Attack and write the record, with a few perturbed images of the largest ε beside it."""
        images, labels = chosen_images(_task(self.trial), self.max_images)
        detector = _detector(self.trial, self.reading, results, device)
        found = run_attacks(detector, images, labels, _validation(detector), self.specs, keep=EXAMPLES, compare=False)
        strongest = max(spec.epsilon for spec in self.specs)
        examples = [one for result in found if result.spec.epsilon == strongest for one in _examples(result, images)]
        if examples:
            arrays = {name: np.stack([example[name] for example in examples]) for name in EXAMPLE_FIELDS}
            path = results.attack_file(self.key).with_suffix(".npz")
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        rows = [row(result, labels, self.reading) for result in found]
        _write(results, self.key, self.trial, rows)


@dataclass(frozen=True)
class MatrixUnit:
    """Each aggregation of one detector attacked, and scored by each.

    Attributes:
        trial: the detector's trial.
        error: how its errors are measured.
        spec: the attack.
        max_images: test images attacked at most.
    """

    trial: TrialSpec
    error: str
    spec: AttackSpec
    max_images: int | None

    @property
    def key(self) -> str:
        """Name of the record."""
        return _key("matrix", self.trial, [self.spec], self.max_images, error=self.error)

    def run(self, results: Results, device: torch.device) -> None:
        """Attack and write the record."""
        images, labels = chosen_images(_task(self.trial), self.max_images)
        detector = _detector(self.trial, Reading(self.error, "avg"), results, device)
        rows = [
            {
                **named(cell.spec),
                "attacked_aggregation": cell.attacked,
                "scoring_aggregation": cell.scoring,
                "error": self.error,
                **judged(cell.clean_scores, cell.scores, labels),
                "images": cell.images,
                "flags": ";".join(cell.flags),
            }
            for cell in aggregation_matrix(detector, images, labels, [self.spec])
        ]
        _write(results, self.key, self.trial, rows)


@dataclass(frozen=True)
class TransferUnit:
    """One detector attacked; what was made against it is scored by others of the same task and seed.

    Attributes:
        trial: the attacked detector's trial.
        reading: the score that is attacked.
        spec: the attack.
        max_images: test images attacked at most.
        targets: detectors that score, each with its own reading; the attacked one may be among them.
    """

    trial: TrialSpec
    reading: Reading
    spec: AttackSpec
    max_images: int | None
    targets: tuple[tuple[TrialSpec, Reading], ...]

    @property
    def key(self) -> str:
        """Name of the record."""
        targets = [[trial.key, asdict(reading)] for trial, reading in self.targets]
        return _key(
            "transfer",
            self.trial,
            [self.spec],
            self.max_images,
            reading=asdict(self.reading),
            targets=targets,
        )

    def run(self, results: Results, device: torch.device) -> None:
        """Attack and write the record: a row for each target, empty where its test images are others."""
        images, labels = chosen_images(_task(self.trial), self.max_images)
        detector = _detector(self.trial, self.reading, results, device)
        (found,) = run_attacks(detector, images, labels, _validation(detector), [self.spec])
        rows: list[dict[str, Any]] = []
        for trial, reading in self.targets:
            others, _ = chosen_images(_task(trial), self.max_images)
            if not torch.equal(others, images):
                rows.append({})
                continue
            target = _detector(trial, reading, results, device)
            clean = score_all(target, images)
            scores = transferred(found, target, images, clean_scores=clean)
            rows.append(
                {
                    **named(found.spec),
                    "aggregation": reading.aggregation,
                    "error": reading.error,
                    **judged(clean, scores, labels),
                    "images": len(found.indices),
                    "flags": ";".join(found.flags),
                }
            )
        _write(results, self.key, self.trial, rows)


def _key(kind: str, trial: TrialSpec, specs: Sequence[AttackSpec], max_images: int | None, **more: Any) -> str:
    return content_key(
        {
            "format": RECORD_FORMAT,
            "kind": kind,
            "trial": trial.key,
            "specs": [asdict(spec) for spec in specs],
            "max_images": max_images,
            **more,
        }
    )


def _write(results: Results, key: str, trial: TrialSpec, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a record; JSON has no NaN, None stands for it."""
    plain = [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in rows
    ]
    write_json(results.attack_file(key), {"format": RECORD_FORMAT, "trial": trial.key, "rows": plain})


def _task(trial: TrialSpec) -> datasets.Task:
    return _loaded(trial.settings.data, trial.task, trial.fingerprint)


@lru_cache(maxsize=2)
def _loaded(data: config.Data, task: datasets.TaskSpec, fingerprint: str) -> datasets.Task:
    """Load a task once for the units that a worker runs one after the other."""
    return datasets.load_task(data, task)


def _detector(trial: TrialSpec, reading: Reading, results: Results, device: torch.device) -> Detector:
    return load_detector(results.detector(trial.key), device=device).read_by(reading)


def _validation(detector: Detector) -> Tensor:
    return detector.scores(detector.validation_NK)


def _examples(result: AttackResult, images_NCHW: Tensor) -> list[dict[str, Any]]:
    """Return the perturbed images that a result kept, as columns of gallery.npz."""
    return [
        {
            "attacked_original": images_NCHW[index].numpy(),
            "attacked": (image.cpu() * 255).round().byte().numpy(),
            "attacked_attack": np.array(result.spec.attack),
            "attacked_method": np.array(result.spec.method),
            "attacked_epsilon": np.array(result.spec.epsilon),
            "attacked_score_before": np.array(float(result.clean_scores[index])),
            "attacked_score_after": np.array(float(result.scores[index])),
        }
        for image, index in zip(result.perturbed, result.indices[: len(result.perturbed)].tolist(), strict=True)
    ]
