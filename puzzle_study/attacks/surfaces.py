"""Where each attack gets at a detector: which rows are perturbed, and how rows become images again.

attack1 perturbs the image before puzzles are made of it. attack2 perturbs each of its K puzzles against the true
image, puts each back in order by π⁻¹ and averages the K results (paper, section 4.3). attack2_averaged perturbs the
image by the average of the K gradients, taken before the sign: the stronger attack that attack2's wording suggests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from puzzle_study.attacks.adapter import Centre
from puzzle_study.attacks.objectives import Objective, OwnPuzzle, ThroughPuzzles, WholeScore, normalised
from puzzle_study.detectors.memory import AtOnce
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.errors import UserError

# Numbers in one copy of the rows of a batch. Batches do not depend on memory, so that random starts do not either.
NUMBERS_PER_BATCH = 2**23
# Share of the free memory that activations may take, and how many numbers a U-Net keeps per pixel and base channel.
IMAGES_AT_ONCE = {"cpu": 192, "cuda": 8192}
MEMORY_SHARE = 0.5
CPU_BYTES = 2**30
ACTIVATIONS = 14


@dataclass(frozen=True)
class Surface:
    """An attack on one detector.

    Attributes:
        detector: module from images in [0, 1] to scores.
        attack: ``attack1``, ``attack2`` or ``attack2_averaged``.
        centre: threshold and scale of what is pushed.
        at_once: puzzles (images, for a detector without puzzles) in memory together with their gradients.
    """

    detector: nn.Module
    attack: str
    centre: Centre
    at_once: AtOnce

    @classmethod
    def of(
        cls, detector: nn.Module, attack: str, validation_scores: Tensor, *, at_once: AtOnce | None = None
    ) -> Surface:
        """Return the surface of an attack.

        Raises:
            UserError: the attack perturbs puzzles and the detector makes none.
        """
        centre = Centre.of(validation_scores)
        if attack != "attack1":
            if not isinstance(detector, PuzzleDetector):
                raise UserError(
                    f"{attack} perturbs puzzles and {type(detector).__name__} makes none; give attacks.attacks attack1"
                )
            error_NK = normalised(detector, detector.validation_NK)
            centre = Centre.of(error_NK if attack == "attack2" else error_NK.mean(1))
        return cls(detector, attack, centre, at_once or AtOnce(default_at_once(detector)))

    @property
    def rows_per_image(self) -> int:
        """How many rows the attack works on for each image."""
        return len(self._puzzle_detector.puzzle_set) if self.attack == "attack2" else 1

    def batch_size(self, image_CHW: Tensor) -> int:
        """Return how many images are attacked together."""
        return max(1, NUMBERS_PER_BATCH // (image_CHW.numel() * self.rows_per_image))

    def rows(self, x_NCHW: Tensor) -> Tensor:
        """Return what is perturbed, [R, C, H, W]: the images, or all their puzzles image by image."""
        if self.attack != "attack2":
            return x_NCHW
        detector = self._puzzle_detector
        return detector.puzzler.shuffle_all(puzzles.pad(x_NCHW, detector.grid)).flatten(0, 1)

    def images(self, row_RCHW: Tensor, like_NCHW: Tensor) -> Tensor:
        """Return the images that perturbed rows stand for, in the shape of the clean ones."""
        if self.attack != "attack2":
            return row_RCHW
        detector = self._puzzle_detector
        puzzle_NKCHW = row_RCHW.reshape(len(like_NCHW), len(detector.puzzle_set), *row_RCHW.shape[1:])
        average_NCHW = detector.puzzler.unshuffle_all(puzzle_NKCHW).mean(1)
        return average_NCHW[..., : like_NCHW.shape[-2], : like_NCHW.shape[-1]]

    def objective(self, x_NCHW: Tensor) -> Objective:
        """Return what is pushed when these clean images are attacked."""
        if self.attack == "attack2":
            return OwnPuzzle(self._puzzle_detector, x_NCHW, at_once=self.at_once)
        if not isinstance(self.detector, PuzzleDetector):
            return WholeScore(self.detector, rows=len(x_NCHW), at_once=self.at_once)
        true_NCHW = x_NCHW if self.attack == "attack2_averaged" else None
        return ThroughPuzzles(self.detector, rows=len(x_NCHW), at_once=self.at_once, true_NCHW=true_NCHW)

    def score(self, x_NCHW: Tensor) -> Tensor:
        """Return the detector's scores of images in [0, 1], float32 [N], without gradients."""
        return score_images(self.detector, x_NCHW, at_once=self.at_once)

    @property
    def _puzzle_detector(self) -> PuzzleDetector:
        return cast(PuzzleDetector, self.detector)


@torch.no_grad()
def score_images(detector: nn.Module, x_NCHW: Tensor, *, at_once: AtOnce) -> Tensor:
    """Return scores of images in [0, 1], float32 [N] on their device, as many at once as fit."""
    if isinstance(detector, PuzzleDetector):
        return ThroughPuzzles(detector, rows=len(x_NCHW), at_once=at_once).values(x_NCHW)[0].float()
    return WholeScore(detector, rows=len(x_NCHW), at_once=at_once).values(x_NCHW)[0].float()


def device_of(detector: nn.Module) -> torch.device:
    """Return where a module is: its first parameter or buffer, or the CPU."""
    tensors = [*detector.parameters(), *detector.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def default_at_once(detector: nn.Module) -> int:
    """Return how many puzzles, or images of another detector, are differentiated together."""
    device = device_of(detector)
    if not isinstance(detector, PuzzleDetector):
        return IMAGES_AT_ONCE[device.type]
    shape = detector.shape
    puzzle_bytes = ACTIVATIONS * 4 * shape.height * shape.width * max(shape.base_channels, shape.channels)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else CPU_BYTES / MEMORY_SHARE
    return max(1, min(detector.puzzles_at_once, int(MEMORY_SHARE * free) // puzzle_bytes))
