"""The smallest ε that takes an image across the threshold, and the ε at which the AUROC passes 50 %."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from puzzle_study.attacks.running import run_attacks
from puzzle_study.attacks.specs import AttackSpec
from puzzle_study.statistics import metrics

CHANCE = 0.5
ROUNDS = 6
"""Halvings: an image's ε is known to 1/64 of the largest one."""


@dataclass(frozen=True)
class Smallest:
    """What bisection found on N images, S of which are attacked.

    Attributes:
        indices: int64 [S], which images were attacked.
        epsilon_S: float64 [S], smallest ε found at which a normal image scores above the threshold or an anomalous one
            does not; 0 if that is so without an attack, infinite if the attack's own ε does not do it.
        clean_scores: [N], before any attack.
        epsilon_half: ε at which the AUROC of all images passes 50 %; 0 if it is lower without an attack, infinite if ε
            = 1 does not do it, NaN if there is no AUROC.
    """

    indices: Tensor
    epsilon_S: Tensor
    clean_scores: Tensor
    epsilon_half: float


def smallest_epsilons(
    detector: nn.Module,
    images_NCHW: Tensor,
    labels_N: Tensor,
    validation_scores: Tensor,
    spec: AttackSpec,
    *,
    threshold: float,
) -> Smallest:
    """Look for them with one attack, at more and more values of ε.

    An upper bound, as every attack gives: a stronger one may need less.

    Args:
        detector: as :func:`run_attacks` takes it.
        images_NCHW: uint8, or floats in [0, 1].
        labels_N: bool, True for anomalies.
        validation_scores: scores of normal images that were held out.
        spec: the attack; its ε is the largest that is tried on single images.
        threshold: score above which an image is flagged.
    """
    labels_N = labels_N.cpu().bool()

    def attack(epsilon: float, index_S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores after and before, and which were attacked, of some images."""
        aimed = replace(spec, epsilon=epsilon)
        (one,) = run_attacks(
            detector, images_NCHW[index_S], labels_N[index_S], validation_scores, [aimed], keep=0, compare=False
        )
        return one.scores, one.clean_scores, index_S[one.indices]

    def crossed(score_S: Tensor, index_S: Tensor) -> Tensor:
        return (score_S > threshold) != labels_N[index_S]

    every_N = torch.arange(len(labels_N))
    score_N, clean_N, index_S = attack(spec.epsilon, every_N)
    low_S = torch.zeros(len(index_S), dtype=torch.float64)
    high_S = torch.where(crossed(score_N[index_S], index_S), spec.epsilon, torch.inf).double()
    high_S[crossed(clean_N[index_S], index_S)] = 0
    for _ in range(ROUNDS):
        open_S = high_S.isfinite() & (high_S > 0)
        for epsilon in ((low_S + high_S) / 2)[open_S].unique().tolist():
            at_S = (open_S & ((low_S + high_S) / 2 == epsilon)).nonzero().flatten()
            reached_S, _, _ = attack(epsilon, index_S[at_S])
            over_S = crossed(reached_S, index_S[at_S])
            high_S[at_S[over_S]], low_S[at_S[~over_S]] = epsilon, epsilon
            open_S[at_S] = False

    def auroc(score_N: Tensor) -> float:
        return metrics.auroc(score_N.numpy(), labels_N.numpy())

    half = float("nan")
    if not metrics.lacking(len(labels_N), int(labels_N.sum())) and score_N.isfinite().all():
        half = 0.0
        if auroc(clean_N) > CHANCE:
            reached = auroc(score_N)
            half = _passing(lambda epsilon: auroc(attack(epsilon, every_N)[0]), spec.epsilon, reached)
    return Smallest(index_S, high_S, clean_N, half)


def _passing(auroc: Callable[[float], float], epsilon: float, reached: float) -> float:
    """Return where the AUROC passes 50 %, between 0 and 1, known to be ``reached`` at one ε."""
    low, high = 0.0, epsilon
    while reached > CHANCE:
        if high >= 1:
            return math.inf
        low, high = high, min(2 * high, 1.0)
        reached = auroc(high)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if auroc(middle) <= CHANCE else (middle, high)
    return high
