"""Whose score does an attack break: what was made against one score, under another.

An attack is adaptive where it sees the very score that is reported. The matrix of attacked against scoring
aggregation shows what is left when it sees another one, and :func:`transferred` does the same for two detectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from puzzle_study.attacks.isolation import evaluating
from puzzle_study.attacks.places.base import default_at_once, device_of, score_images
from puzzle_study.attacks.running import AttackResult, run_attacks
from puzzle_study.attacks.specs import AttackSpec
from puzzle_study.detectors.base import Detector, to_float
from puzzle_study.detectors.memory import AtOnce
from puzzle_study.detectors.scoring import AGGREGATIONS


@dataclass(frozen=True)
class MatrixCell:
    """Scores under one aggregation of images that were perturbed against another.

    Attributes:
        attacked: aggregation that the attack saw.
        scoring: aggregation of the scores; the attack is adaptive where both are the same.
        scores: [N] after the attack; images that were not attacked keep their clean score.
        clean_scores: [N] under ``scoring``.
        images: how many were attacked.
        flags: of the attack.
    """

    spec: AttackSpec
    attacked: str
    scoring: str
    scores: Tensor
    clean_scores: Tensor
    images: int
    flags: tuple[str, ...]


def aggregation_matrix(
    detector: Detector,
    images_NCHW: Tensor,
    labels_N: Tensor,
    specs: Sequence[AttackSpec],
    *,
    attacked: Sequence[str] = tuple(AGGREGATIONS),
    scoring: Sequence[str] = tuple(AGGREGATIONS),
    at_once: int | None = None,
) -> list[MatrixCell]:
    """Return every attack against each aggregation, scored by each: attack by attack, row by row.

    Args:
        detector: weights, puzzles and validation errors; its own aggregation does not matter.
        images_NCHW: uint8, or floats in [0, 1].
        labels_N: bool, True for anomalies.
        specs: the attacks.
        attacked: aggregations that attacks see.
        scoring: aggregations that score.
        at_once: views in memory together; None: as many as fit.
    """
    judges = {name: _aggregating(detector, name) for name in scoring}
    clean = {name: score_all(judge, images_NCHW, at_once=at_once) for name, judge in judges.items()}
    rows = []
    for seen in attacked:
        victim = _aggregating(detector, seen)
        validation_scores = victim.scores(victim.validation_NK)
        results = run_attacks(victim, images_NCHW, labels_N, validation_scores, specs, at_once=at_once)
        for number, result in enumerate(results):
            for name, judge in judges.items():
                scores = clean[name].clone()
                scores[result.indices] = score_all(judge, result.perturbed, at_once=at_once)
                cell = MatrixCell(result.spec, seen, name, scores, clean[name], len(result.indices), result.flags)
                rows.append((number, cell))
    return [cell for _, cell in sorted(rows, key=lambda row: row[0])]


def transferred(
    result: AttackResult,
    detector: nn.Module,
    images_NCHW: Tensor,
    *,
    clean_scores: Tensor | None = None,
    at_once: int | None = None,
) -> Tensor:
    """Return another detector's scores [N] of images that were perturbed against the one of ``result``.

    Args:
        result: an attack that kept all its perturbed images.
        detector: the other detector, on images of the same shape.
        images_NCHW: the images that ``result`` was made from; those not attacked are scored as they are.
        clean_scores: the other detector's scores of them, where they are known already.
        at_once: views, or images of a module without views, in memory together; None: as many as fit.

    Raises:
        ValueError: the result did not keep its images.
    """
    if len(result.perturbed) != len(result.indices):
        raise ValueError(
            f"{len(result.indices)} images were attacked and {len(result.perturbed)} kept; run with keep=None"
        )
    scores = score_all(detector, images_NCHW, at_once=at_once) if clean_scores is None else clean_scores.clone()
    scores[result.indices] = score_all(detector, result.perturbed, at_once=at_once)
    return scores


def score_all(detector: nn.Module, images_NCHW: Tensor, *, at_once: int | None = None) -> Tensor:
    """Return a detector's scores of uint8 or [0, 1] images, float32 [N] on the CPU."""
    if not len(images_NCHW):
        return torch.empty(0)
    with evaluating(detector):
        x_NCHW = to_float(images_NCHW.to(device_of(detector)))
        return score_images(detector, x_NCHW, at_once=AtOnce(at_once or default_at_once(detector))).cpu()


def _aggregating(detector: Detector, aggregation: str) -> Detector:
    return detector.read_by(replace(detector.reading, aggregation=aggregation))
