"""What an attack on one score does to another score.

An attack is adaptive if it sees the very score that is reported. The matrix of attacked against scoring
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
    """Scores [N] under the aggregation ``scoring`` of images that were perturbed against ``attacked``.

    The attack is adaptive if both are the same. ``images`` says how many were attacked; the others keep their clean
    score. ``flags`` are those of the attack.
    """

    spec: AttackSpec
    attacked: str
    scoring: str
    scores: Tensor
    clean_scores: Tensor
    validation_scores: Tensor
    images: int
    flags: tuple[str, ...]


def aggregation_matrix(
    detector: Detector, images_NCHW: Tensor, labels_N: Tensor, specs: Sequence[AttackSpec]
) -> list[MatrixCell]:
    """Return every attack against each aggregation, scored by each: attack by attack, row by row.

    Args:
        detector: weights, puzzles and validation errors; its own aggregation does not matter.
        images_NCHW: uint8, or floats in [0, 1].
        labels_N: bool, True for anomalies.
        specs: the attacks.
    """
    judges = {name: detector.read_by(replace(detector.reading, aggregation=name)) for name in AGGREGATIONS}
    clean = {name: score_all(judge, images_NCHW) for name, judge in judges.items()}
    cells: list[list[MatrixCell]] = [[] for _ in specs]
    for attacked, victim in judges.items():
        results = run_attacks(victim, images_NCHW, labels_N, victim.scores(victim.validation_NK), specs)
        for row, one in zip(cells, results, strict=True):
            for name, judge in judges.items():
                scores = transferred(one, judge, images_NCHW, clean_scores=clean[name])
                held_out, count = judge.scores(judge.validation_NK), len(one.indices)
                row.append(MatrixCell(one.spec, attacked, name, scores, clean[name], held_out, count, one.flags))
    return [cell for row in cells for cell in row]


def transferred(
    result: AttackResult, detector: nn.Module, images_NCHW: Tensor, *, clean_scores: Tensor | None = None
) -> Tensor:
    """Return another detector's scores [N] of images that were perturbed against the one of ``result``.

    Args:
        result: an attack that kept all its perturbed images.
        detector: the other detector, on images of the same shape.
        images_NCHW: the images that ``result`` was made from; those not attacked are scored as they are.
        clean_scores: the other detector's scores of them, if they are known already.

    Raises:
        ValueError: the result did not keep its images.
    """
    if len(result.perturbed) != len(result.indices):
        raise ValueError(
            f"{len(result.indices)} images were attacked and {len(result.perturbed)} kept; run with keep=None"
        )
    scores = score_all(detector, images_NCHW) if clean_scores is None else clean_scores.clone()
    scores[result.indices] = score_all(detector, result.perturbed)
    return scores


def score_all(detector: nn.Module, images_NCHW: Tensor) -> Tensor:
    """Return a detector's scores of uint8 or [0, 1] images, float32 [N] on the CPU."""
    if not len(images_NCHW):
        return torch.empty(0)
    with evaluating(detector):
        x_NCHW = to_float(images_NCHW.to(device_of(detector)))
        return score_images(detector, x_NCHW, at_once=AtOnce(default_at_once(detector))).cpu()
