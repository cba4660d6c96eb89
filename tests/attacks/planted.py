"""Detectors whose weakness is known beforehand: what an attack finds on them is held against a closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from puzzle_study.attacks.running import AttackResult, run_attacks
from puzzle_study.attacks.specs import AttackSpec, attack_spec
from puzzle_study.config import Reading
from puzzle_study.detectors.base import Detector, Shape
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.detectors.puzzle_ae.networks import UNet, initialise_unet

SIDE = 16
EPSILON = 0.05
ATTACKS = ("attack1", "attack2", "attack2_averaged")


class Linear(nn.Module):
    """Score w·x + bias; the strongest attack in the max-norm ball is ε·sign(w), worth ε·‖w‖₁."""

    def __init__(self, *, size: float = 1.0, bias: float = 1.0, channels: int = 1, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight_L = torch.randn(channels * SIDE * SIDE, generator=generator)
        self.weight = nn.Parameter(size * weight_L / weight_L.numel())
        self.bias = size * bias

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.flatten(1) @ self.weight + self.bias


class Constant(nn.Module):
    """Robust: nothing changes its score. It has no parameter and no gradient."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.ones(len(x_NCHW))


class Masked(Linear):
    """Gradient masking: a linear score in steps so small that only the gradient is lost."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return super().forward(x_NCHW).mul(1e5).round().div(1e5)


class Misleading(Linear):
    """Gradients that point the other way."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        score_N = super().forward(x_NCHW)
        return 2 * score_N.detach() - score_N


class Endless(Linear):
    """A score that is infinite for whatever is not flat."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        uneven_N = x_NCHW.flatten(1).std(1) > 1e-3
        return super().forward(x_NCHW) + torch.where(uneven_N, torch.inf, 0.0)


class Answer(nn.Module):
    """A network that tells by a marked corner which of two puzzles it sees and answers accordingly.

    Two opposite patterns, far larger than what they have in common, are added to what the puzzles' gradients share.
    The sign of each alone is that of its pattern, and the two signs cancel exactly: attack2 as it is worded does
    nothing. The average of the gradients is what they share, and attacks through all permutations find it.
    """

    OFFSET = 0.3

    def __init__(self, puzzler: puzzles.Puzzler, shared_1HW: Tensor, pattern_1HW: Tensor, marker_1HW: Tensor) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, 1, 1)
        own_KCHW = torch.stack((shared_1HW + pattern_1HW, shared_1HW - pattern_1HW))
        k_K = torch.arange(2)
        self.register_buffer("slope_KCHW", puzzler.shuffle(own_KCHW, k_K))
        self.register_buffer("marker_KCHW", puzzler.shuffle(marker_1HW.expand_as(own_KCHW), k_K))
        self.register_buffer("true_1HW", marker_1HW)

    def forward(self, puzzle_NCHW: Tensor) -> Tensor:
        bright_NK = (puzzle_NCHW[:, None] * self.get_buffer("marker_KCHW")).amax((2, 3, 4))
        k_N = bright_NK.argmax(1)
        slope_NCHW = self.get_buffer("slope_KCHW")[k_N]
        plain_NCHW = 0.5 + 0.5 * self.get_buffer("marker_KCHW")[k_N]
        return 0.5 + 0.5 * self.get_buffer("true_1HW") + self.OFFSET + slope_NCHW * (puzzle_NCHW - plain_NCHW)


def puzzle_detector(
    *, aggregation: str = "avg", grid: int = 2, count: int = 23, side: int = SIDE, channels: int = 1
) -> PuzzleDetector:
    """Return a small Puzzle-AE with random weights, calibrated on random images."""
    every = puzzles.all_permutations() if grid == 2 else puzzles.drawn_permutations(count, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = UNet(channels=channels, base_channels=4)
        initialise_unet(network, "he")
    puzzle_set = puzzles.PuzzleSet("jigsaw", grid, every[:count])
    shape, reading = Shape(channels, side, side), Reading("l2", aggregation)
    detector = PuzzleDetector(network, puzzle_set, shape=shape, reading=reading)
    detector.calibrate(images(8, side=side, channels=channels, seed=5))
    return detector.eval()


def obfuscated() -> PuzzleDetector:
    """Return a Puzzle-AE that only an attack through all its permutations breaks, see :class:`Answer`."""
    puzzle_set = puzzles.PuzzleSet("jigsaw", 2, ((1, 0, 2, 3), (0, 1, 3, 2)))
    puzzler = puzzles.Puzzler(puzzle_set, height=SIDE, width=SIDE)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (2, 1, SIDE, SIDE), generator=generator) * 2.0 - 1
    marker_1HW = torch.zeros(1, SIDE, SIDE)
    marker_1HW[0, 0, 0] = 1
    network: Any = Answer(puzzler, 3 * signs[0], 30 * signs[1], marker_1HW)
    detector = PuzzleDetector(network, puzzle_set, shape=Shape(1, SIDE, SIDE), reading=Reading("mse", "avg"))
    detector.calibrate(marked_images(4))
    return detector.eval()


def marked_images(count: int) -> Tensor:
    """Return the flat gray images with a white corner that :func:`obfuscated` is made for."""
    x_NCHW = torch.full((count, 1, SIDE, SIDE), 0.5)
    x_NCHW[:, :, 0, 0] = 1
    return x_NCHW


def images(count: int, *, side: int = SIDE, channels: int = 1, seed: int = 0, low: int = 0, high: int = 256) -> Tensor:
    """Return random uint8 images."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def fgsm(attack: str = "attack1", epsilon: float = EPSILON) -> AttackSpec:
    """Return one step of the whole ε."""
    return attack_spec(attack, "fgsm", epsilon=epsilon)


def attacked(
    detector: nn.Module,
    x_NCHW: Tensor,
    *specs: AttackSpec,
    labels: Sequence[bool] = (),
    validation: Sequence[float] = (0.9, 1.0, 1.1),
    **settings: Any,
) -> list[AttackResult]:
    """Attack images, all of them normal without labels; a detector of the package has validation scores of its own."""
    scores = torch.tensor(validation)
    if isinstance(detector, Detector):
        scores = detector.scores(detector.validation_NK)
    label_N = torch.tensor(labels or [False] * len(x_NCHW), dtype=torch.bool)
    return run_attacks(detector, x_NCHW, label_N, scores, specs, **settings)
