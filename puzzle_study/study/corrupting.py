"""The stage of corruptions: natural changes of the test images, scored by the finished detectors of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from puzzle_study import config, datasets
from puzzle_study.config import Reading
from puzzle_study.corruptions.base import CLEAN, NONE
from puzzle_study.corruptions.corrupt import corrupt
from puzzle_study.corruptions.registry import CORRUPTIONS, misfit
from puzzle_study.datasets.subset import chosen_of_each_side
from puzzle_study.detectors.base import Detector
from puzzle_study.detectors.files import load_detector
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE, Calibration
from puzzle_study.io import write_json
from puzzle_study.results import RECORD_FORMAT, Results, content_key
from puzzle_study.statistics import metrics
from puzzle_study.study.attack_units import task_of
from puzzle_study.study.attacking import Victim, about, asked_for
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.stage import run_units
from puzzle_study.study.storage import Place
from puzzle_study.trials.spec import TrialSpec

COLOUR = (3,)
"""Channels of what changes colours."""
Row = dict[str, Any]


@dataclass(frozen=True)
class CorruptionUnit:
    """One corruption at each severity, or none, on one detector."""

    trial: TrialSpec
    reading: Reading
    corruption: str
    severities: tuple[int, ...]
    max_images: int | None
    seed: int

    @property
    def key(self) -> str:
        """Name of the record: the hash of everything that determines it."""
        content = {name: value for name, value in asdict(self).items() if name not in ("trial", "severities")}
        return content_key(
            content | {"format": RECORD_FORMAT, "trial": self.trial.key, "severities": list(self.severities)}
        )

    def run(self, results: Results, device: torch.device) -> None:
        """Corrupt, score and write the record."""
        images, labels = chosen(task_of(self.trial), self.max_images)
        detector = _detector(results.detector(self.trial.key), device).read_by(self.reading)
        rows = list(self._rows(detector, images.to(device), labels.numpy()))
        write_json(results.corruption_file(self.key), {"format": RECORD_FORMAT, "trial": self.trial.key, "rows": rows})

    def _rows(self, detector: Detector, images_NCHW: Tensor, labels_N: np.ndarray) -> Iterator[Row]:
        threshold = Calibration.of(detector).threshold(FALSE_POSITIVE_RATE)
        side = min(images_NCHW.shape[2:])
        kind = None if self.corruption == CLEAN else CORRUPTIONS[self.corruption]
        if kind is not None and kind.channels == COLOUR and bool((images_NCHW == images_NCHW[:, :1]).all()):
            return  # gray images that are read as colour
        for severity in self.severities:
            changed, strength = images_NCHW, Row(value=None, unit="")
            if kind is not None:
                changed = corrupt(images_NCHW, self.corruption, severity, self.seed)
                strength = Row(value=kind.value(severity, side), unit=kind.unit)
            score_N = detector.scores(detector.error_matrix(changed)).double().cpu().numpy()
            yield {"corruption": self.corruption, "severity": severity, **strength} | judged(
                score_N, labels_N, threshold
            )


def chosen(task: datasets.Task, max_images: int | None) -> tuple[Tensor, Tensor]:
    """Return the test images that are corrupted, the same for every detector of a task, and their labels.

    False alarms are counted among normal images alone: they must not be few because anomalies have many classes.
    """
    return (task.test, task.labels) if max_images is None else chosen_of_each_side(task, max_images)


def judged(score_N: np.ndarray, labels_N: np.ndarray, threshold: float) -> Row:
    """Return AUROC and shares above a threshold, with 95 % intervals over images; what cannot be measured is None.

    The AUROC's interval is a bootstrap over images, those of shares are Wilson's. The threshold is held as it is.
    """
    sides = {"flagged_normal": score_N[~labels_N], "flagged_anomalous": score_N[labels_N]}
    finite = bool(np.isfinite(score_N).all())
    lacks = metrics.lacking(len(labels_N), int(labels_N.sum())) if finite else "scores are not finite"
    row: Row = dict.fromkeys(("auroc", "auroc_low", "auroc_high"))
    if not lacks:
        ends = metrics.bootstrap_auroc(score_N, labels_N, seed=0)
        row = dict(zip(row, (metrics.auroc(score_N, labels_N), *ends), strict=True))
    for name, side in sides.items():
        shares: tuple[float | None, ...] = (None, None, None)
        if finite and len(side):
            flagged = int((side > threshold).sum())
            shares = (flagged / len(side), *metrics.wilson(flagged, len(side)))
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), shares, strict=True))
    row["n_normal"], row["n_anomalous"] = map(len, sides.values())
    return row | {"note": lacks}


def require_colour(study: config.Study) -> None:
    """Refuse a change of colours that was asked for, if the images are gray.

    Raises:
        UserError: they are, or they cannot be read.
    """
    named = [*study.data.augment, *((study.corruptions and study.corruptions.kinds) or ())]
    named += study.evaluate.corrupted.kinds if study.evaluate.corrupted else ()
    of_colour = [kind for kind in named if CORRUPTIONS[kind].channels == COLOUR]
    if of_colour and datasets.gray_as_colour(study.data):
        raise UserError(
            f"corruption {of_colour[0]} needs colour images, and the training images in data.root are gray; leave it "
            f"out of the corruptions"
        )


def corruption_units(plan: Plan) -> list[CorruptionUnit]:
    """Return what there is to run, each thing once."""
    section = plan.study.corruptions
    units = [
        unit
        for victim in asked_for(plan, section)
        for trial in victim.trials
        for unit in _units(section, victim, trial)
    ]
    return list({unit.key: unit for unit in units}.values())


def left(plan: Plan, results: Results) -> list[CorruptionUnit]:
    """Return the units that have no record."""
    return [unit for unit in corruption_units(plan) if results.corruption_record(unit.key) is None]


def run_corruption_stage(
    waiting: Sequence[CorruptionUnit], study: config.Study, place: Place, progress: StageProgress
) -> None:
    """Run units; raises what :func:`run_units` raises."""
    run_units(waiting, study, place, progress, section="corruptions")


def write_corruption_table(plan: Plan, results: Results) -> None:
    """Write corruptions.csv from records, or remove it if the study asks for no corruptions."""
    section = plan.study.corruptions
    if section is None:
        results.corruptions_file.unlink(missing_ok=True)
        return
    rows = [
        {
            **about(victim, trial),
            "detector": trial.detector,
            "aggregation": victim.reading.aggregation,
            "error": victim.reading.error,
            **row,
        }
        for victim in asked_for(plan, section)
        for trial in victim.trials
        for unit in _units(section, victim, trial)
        for row in (results.corruption_record(unit.key) or {"rows": []})["rows"]
    ]
    results.write_table(results.corruptions_file, pd.DataFrame(rows))


def _units(section: config.Corruptions | None, victim: Victim, trial: TrialSpec) -> Iterator[CorruptionUnit]:
    """Yield clean images and every corruption that fits the images of a trial."""
    if section is None:
        return
    channels = trial.settings.data.channels
    fitting = [kind for kind in section.kinds or CORRUPTIONS if misfit(kind, channels) is None]
    for kind in (CLEAN, *fitting):
        severities = (NONE,) if kind == CLEAN else section.severities
        yield CorruptionUnit(trial, victim.reading, kind, severities, section.max_images, section.seed)


@lru_cache(maxsize=1)
def _detector(folder: Path, device: torch.device) -> Detector:
    """Load a detector once for its corruptions, which follow each other."""
    return load_detector(folder, device=device)
