"""What the attack stage is cut into: units that run on their own and leave one record each.

A record holds measurements. What follows from comparing records, such as flags, and names that may change without a
new attack, such as ``winner``, are added when tables are written.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

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
LAST_CLEAN: dict[Hashable, Tensor] = {}
"""Scores of the clean images of the unit that this process ran last: the next one is often of the same detector."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Unit(ABC):
    """A piece of the attack stage: one detector is attacked, and one record is left under the unit's key.

    ``max_images`` and ``balanced`` say which test images are attacked.
    """

    trial: TrialSpec
    reading: Reading
    specs: tuple[AttackSpec, ...]
    max_images: int | None
    balanced: bool = field(default=False, kw_only=True)
    kind: ClassVar[str]

    @property
    def key(self) -> str:
        """Name of the record: the hash of everything that determines it."""
        common = {
            "format": RECORD_FORMAT,
            "kind": self.kind,
            "trial": self.trial.key,
            "specs": [spec.to_json() for spec in self.specs],
            "max_images": self.max_images,
        }
        # What is not asked for leaves the key as it was, so that finished results stay.
        return content_key(common | ({"balanced": True} if self.balanced else {}) | self._determined_by())

    def run(self, results: Results, device: torch.device) -> None:
        """Attack and write the record; files that belong to it are written before it."""
        images, labels = self._images(self.trial)
        detector = _detector(self.trial, self.reading, results, device)
        # JSON has neither NaN nor infinity; None stands for them.
        rows = [
            {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in row.items()
            }
            for row in self._rows(detector, images, labels, results)
        ]
        write_json(results.attack_file(self.key), {"format": RECORD_FORMAT, "trial": self.trial.key, "rows": rows})

    def _images(self, trial: TrialSpec) -> tuple[Tensor, Tensor]:
        """Return the test images of a trial's task that are attacked, and their labels."""
        return chosen_images(task_of(trial), self.max_images, balanced=self.balanced)

    def _determined_by(self) -> dict[str, Any]:
        return {"reading": asdict(self.reading)}

    @abstractmethod
    def _rows(self, detector: Detector, images: Tensor, labels: Tensor, results: Results) -> list[Row]:
        """Attack and return the record's rows."""


@dataclass(frozen=True)
class MethodUnit(Unit):
    """One method of one attack, with all its ε, on one detector.

    Attributes:
        keep: which perturbed images stay: a few of the largest ε for the gallery, or ``all`` besides, as floats.
    """

    keep: Literal["examples", "all"] = field(default="examples", kw_only=True)
    kind = "method"

    def _determined_by(self) -> dict[str, Any]:
        return super()._determined_by() | ({"keep": "all"} if self.keep == "all" else {})

    def _rows(self, detector: Detector, images: Tensor, labels: Tensor, results: Results) -> list[Row]:
        validation = _validation(detector)
        keep = EXAMPLES if self.keep == "examples" else None
        of = (results.root, self.trial.key, self.reading, self.max_images, self.balanced)
        clean = LAST_CLEAN.get(of)
        found = run_attacks(
            detector, images, labels, validation, self.specs, keep=keep, compare=False, clean_scores=clean
        )
        LAST_CLEAN.clear()
        LAST_CLEAN[of] = found[0].clean_scores
        if self.keep == "all":
            write_arrays(results.attacked_images_file(self.key), _all_images(found, images, labels))
        strongest = max(spec.epsilon for spec in self.specs)
        examples = [one for result in found if result.spec.epsilon == strongest for one in _examples(result, images)]
        if examples:
            arrays = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
            write_arrays(results.attack_file(self.key).with_suffix(".npz"), arrays)
        return [row(result, labels, self.reading, validation) for result in found]


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
                **judged(cell.clean_scores, cell.scores, labels, cell.validation_scores),
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
            others, _ = self._images(trial)
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
                    **judged(
                        clean, transferred(found, target, images, clean_scores=clean), labels, _validation(target)
                    ),
                    "images": len(found.indices),
                    "flags": ";".join(found.flags),
                }
            )
        return rows


def task_of(trial: TrialSpec) -> datasets.Task:
    """Return the images of a trial."""
    return _loaded(trial.settings.data, trial.task, trial.fingerprint)


@lru_cache(maxsize=2)
def _loaded(data: config.Data, task: datasets.TaskSpec, fingerprint: str) -> datasets.Task:
    """Load a task once for the units that a worker runs one after the other."""
    return datasets.load_task(data, task)


def _detector(trial: TrialSpec, reading: Reading, results: Results, device: torch.device) -> Detector:
    return load_detector(results.detector(trial.key), device=device).read_by(reading)


def _validation(detector: Detector) -> Tensor:
    return detector.scores(detector.validation_NK)


def _all_images(found: Sequence[AttackResult], images_NCHW: Tensor, labels_N: Tensor) -> dict[str, np.ndarray]:
    """Return what others need to check an attack: S results on N images, A of which are attacked.

    ``images`` uint8 [N, C, H, W], ``labels`` [N], ``attacked`` [A], which of the images, ``epsilon`` [S], ``perturbed``
    float32 [S, A, C, H, W] and ``scores`` [S, N].
    """
    return {
        "images": images_NCHW.numpy(),
        "labels": labels_N.numpy(),
        "attacked": found[0].indices.numpy(),
        "epsilon": np.array([result.spec.epsilon for result in found]),
        "perturbed": torch.stack([result.perturbed for result in found]).numpy(),
        "scores": torch.stack([result.scores for result in found]).numpy(),
    }


def _examples(result: AttackResult, images_NCHW: Tensor) -> Iterator[Row]:
    """Yield the first perturbed images that a result kept, as columns of gallery.npz."""
    for image, index in zip(result.perturbed[:EXAMPLES], result.indices[:EXAMPLES].tolist(), strict=False):
        yield {
            "attacked_original": images_NCHW[index].numpy(),
            "attacked": (image.cpu() * 255).round().byte().numpy(),
            "attacked_attack": result.spec.attack,
            "attacked_method": result.spec.method,
            "attacked_epsilon": result.spec.epsilon,
            "attacked_score_before": float(result.clean_scores[index]),
            "attacked_score_after": float(result.scores[index]),
        }
