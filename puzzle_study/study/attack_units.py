"""What the attack stage is cut into: units that run on their own and leave one record each.

A record holds measurements. What follows from comparing records, such as flags, and names that may change without a
new attack, such as ``winner``, are added when tables are written.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar

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
from puzzle_study.io import write_arrays, write_json
from puzzle_study.results import RECORD_FORMAT, Results, content_key
from puzzle_study.trials.spec import TrialSpec

EXAMPLES = 4
Row = dict[str, Any]


@dataclass(frozen=True)
class Unit(ABC):
    """A piece of the attack stage: one detector is attacked, and one record is left under the unit's key."""

    trial: TrialSpec
    reading: Reading
    specs: tuple[AttackSpec, ...]
    max_images: int | None
    kind: ClassVar[str]

    @property
    def key(self) -> str:
        """Name of the record: the hash of everything that determines it."""
        common = {
            "format": RECORD_FORMAT,
            "kind": self.kind,
            "trial": self.trial.key,
            "specs": [asdict(spec) for spec in self.specs],
            "max_images": self.max_images,
        }
        return content_key(common | self._determined_by())

    def run(self, results: Results, device: torch.device) -> None:
        """Attack and write the record; files that belong to it are written before it."""
        images, labels = chosen_images(_task(self.trial), self.max_images)
        detector = _detector(self.trial, self.reading, results, device)
        # JSON has no NaN; None stands for it.
        rows = [
            {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
            for row in self._rows(detector, images, labels, results)
        ]
        write_json(results.attack_file(self.key), {"format": RECORD_FORMAT, "trial": self.trial.key, "rows": rows})

    def _determined_by(self) -> dict[str, Any]:
        return {"reading": asdict(self.reading)}

    @abstractmethod
    def _rows(self, detector: Detector, images: Tensor, labels: Tensor, results: Results) -> list[Row]:
        """Attack and return the record's rows."""


class MethodUnit(Unit):
    """One method of one attack, with all its ε, on one detector; keeps a few perturbed images of the largest ε."""

    kind = "method"

    def _rows(self, detector: Detector, images: Tensor, labels: Tensor, results: Results) -> list[Row]:
        found = run_attacks(detector, images, labels, _validation(detector), self.specs, keep=EXAMPLES, compare=False)
        strongest = max(spec.epsilon for spec in self.specs)
        examples = [one for result in found if result.spec.epsilon == strongest for one in _examples(result, images)]
        if examples:
            arrays = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
            write_arrays(results.attack_file(self.key).with_suffix(".npz"), arrays)
        return [row(result, labels, self.reading) for result in found]


class MatrixUnit(Unit):
    """Each aggregation of one detector attacked, and scored by each; the reading's own aggregation does not matter."""

    kind = "matrix"

    def _determined_by(self) -> dict[str, Any]:
        return {"error": self.reading.error}

    def _rows(self, detector: Detector, images: Tensor, labels: Tensor, results: Results) -> list[Row]:
        return [
            {
                **named(cell.spec),
                "attacked_aggregation": cell.attacked,
                "scoring_aggregation": cell.scoring,
                "error": self.reading.error,
                **judged(cell.clean_scores, cell.scores, labels),
                "images": cell.images,
                "flags": ";".join(cell.flags),
            }
            for cell in aggregation_matrix(detector, images, labels, self.specs)
        ]


@dataclass(frozen=True)
class TransferUnit(Unit):
    """One detector attacked by one attack; its perturbed images are scored by others of the same task and seed.

    Attributes:
        targets: detectors that score, each with its own reading; the attacked one may be among them.
    """

    targets: tuple[tuple[TrialSpec, Reading], ...]
    kind = "transfer"

    def _determined_by(self) -> dict[str, Any]:
        targets = [[trial.key, asdict(reading)] for trial, reading in self.targets]
        return super()._determined_by() | {"targets": targets}

    def _rows(self, detector: Detector, images: Tensor, labels: Tensor, results: Results) -> list[Row]:
        """Attack and return a row for each target, empty if its test images are different ones."""
        (found,) = run_attacks(detector, images, labels, _validation(detector), self.specs)
        rows: list[Row] = []
        for trial, reading in self.targets:
            others, _ = chosen_images(_task(trial), self.max_images)
            if not torch.equal(others, images):
                rows.append({})
                continue
            target = _detector(trial, reading, results, detector.validation_NK.device)
            clean = score_all(target, images)
            rows.append(
                {
                    **named(found.spec),
                    "aggregation": reading.aggregation,
                    "error": reading.error,
                    **judged(clean, transferred(found, target, images, clean_scores=clean), labels),
                    "images": len(found.indices),
                    "flags": ";".join(found.flags),
                }
            )
        return rows


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


def _examples(result: AttackResult, images_NCHW: Tensor) -> Iterator[Row]:
    """Yield the perturbed images that a result kept, as columns of gallery.npz."""
    for image, index in zip(result.perturbed, result.indices[: len(result.perturbed)].tolist(), strict=True):
        yield {
            "attacked_original": images_NCHW[index].numpy(),
            "attacked": (image.cpu() * 255).round().byte().numpy(),
            "attacked_attack": result.spec.attack,
            "attacked_method": result.spec.method,
            "attacked_epsilon": result.spec.epsilon,
            "attacked_score_before": float(result.clean_scores[index]),
            "attacked_score_after": float(result.scores[index]),
        }
