"""The fitted Puzzle-AE: from images to error matrix and anomaly scores (paper, section 3.2).

Shape legend: N images, K permutations, P pairs of image and permutation, C channels, H and W pixels (of the image,
before padding).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import Self

from puzzle_study.config.types import Reading
from puzzle_study.detectors import scoring
from puzzle_study.detectors.base import Context, Detector, Run, Shape, Traits, Turn, Viewed
from puzzle_study.detectors.devices import Precision
from puzzle_study.detectors.memory import room, share_of_gpu
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.along import longest, train_along
from puzzle_study.detectors.puzzle_ae.fused import train_together
from puzzle_study.detectors.puzzle_ae.networks import UNet, choose_kernels, place, reconstruct
from puzzle_study.detectors.puzzle_ae.rules import ROTATIONS, scored_by_all
from puzzle_study.detectors.puzzle_ae.settings import MOST_BASE_CHANNELS, MOST_PERMUTATIONS, PuzzleSettings
from puzzle_study.detectors.puzzle_ae.training import Trainer

# Numbers in the U-Net's widest feature map for one chunk of puzzles: about 8 MNIST images × 23 at base 64 on a CPU.
CHUNK_NUMBERS = {"cpu": 10_000_000, "cuda": 400_000_000}
# Share of free memory for activations, and numbers that a U-Net keeps per pixel and base channel.
MEMORY_SHARE = 0.5
CPU_BYTES = 2**30
ACTIVATIONS = 14


class PuzzleDetector(Viewed):
    """A U-Net with its scoring puzzle set and validation errors."""

    name = "puzzle_ae"
    title = "Puzzle-AE"
    source = "Salehi, Eftekhar, Sadjadi, Rohban, Rabiee 2020: Puzzle-AE: Novelty Detection in Images through Puzzles"
    Settings = PuzzleSettings
    traits = Traits(epochs=True, views=True, maps=True)

    def __init__(
        self,
        network: UNet,
        puzzle_set: puzzles.PuzzleSet,
        *,
        shape: Shape,
        reading: Reading | None = None,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(shape=shape, reading=reading, precision=precision, views=len(puzzle_set))
        self.network = network
        self.puzzle_set = puzzle_set
        self.base_channels = network.head.in_channels
        self.grid = puzzle_set.grid
        self._puzzler: puzzles.Puzzler | None = None
        self._trainer: Trainer | None = None

    @classmethod
    def build(cls, settings: PuzzleSettings, context: Context) -> Self:
        """Return a detector with its initial weights."""
        trainer = Trainer(settings, context)
        detector = cls(
            trainer.solver,
            scoring_set(settings, trainer.puzzler.puzzles),
            shape=context.shape,
            reading=settings.reading,
            precision=context.precision,
        ).to(context.device)
        detector._trainer = trainer
        return detector

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Train the U-Net epoch by epoch; the parts only for training are released afterwards."""
        (error,) = self.fit_together([self], [images_NCHW], [run], lambda _: None)
        if error is not None:
            raise error

    @classmethod
    def fit_together(
        cls, detectors: Sequence[Detector], images: Sequence[Tensor], runs: Sequence[Run], turn: Turn
    ) -> list[Exception | None]:
        """Train several as one network."""
        fitted = [cast(PuzzleDetector, one) for one in detectors]
        errors = train_together([one._released() for one in fitted], images, runs, turn)
        for one in fitted:
            one._freeze()
        return errors

    @classmethod
    def fit_along(cls, detectors: Sequence[Detector], images_NCHW: Tensor, runs: Sequence[Run]) -> None:
        """Train the one with most epochs; the others score with its weights, or with averages of them."""
        fitted = [cast(PuzzleDetector, one) for one in detectors]
        trainers = [one._released() for one in fitted]
        for one, trainer in zip(fitted, trainers, strict=True):
            if trainer.averaged is None:
                one.network = longest(trainers).network
        train_along(trainers, images_NCHW, runs)
        for one in fitted:
            one._freeze()

    def _released(self) -> Trainer:
        trainer, self._trainer = self._trainer, None
        if trainer is None:
            raise RuntimeError("a detector is fitted once, after build")
        return trainer

    @property
    def puzzler(self) -> puzzles.Puzzler:
        """Index tables of the scoring puzzles, on the network's device."""
        if self._puzzler is None or self._puzzler.source_KL.device != self.device:
            self._puzzler = puzzles.Puzzler(
                self.puzzle_set,
                height=puzzles.padded_side(self.shape.height, self.grid),
                width=puzzles.padded_side(self.shape.width, self.grid),
                device=self.device,
            )
        return self._puzzler

    def prepare(self, x_NCHW: Tensor) -> Tensor:
        """Return images padded to multiples of the grid."""
        return puzzles.pad(x_NCHW, self.grid)

    def view(self, prepared_PCHW: Tensor, k_P: Tensor) -> Tensor:
        """Return puzzle k of each padded image."""
        return self.puzzler.shuffle(prepared_PCHW, k_P)

    def every_view(self, prepared_NCHW: Tensor) -> Tensor:
        """Return all puzzles of each padded image, [N, K, C, H, W]."""
        return self.puzzler.shuffle_all(prepared_NCHW)

    def undo(self, view_NKCHW: Tensor) -> Tensor:
        """Return all K puzzles of each image put back in order."""
        return self.puzzler.unshuffle_all(view_NKCHW)

    def answer(self, view_PCHW: Tensor) -> Tensor:
        """Return the network's reconstructions of padded puzzles, float32, same shape."""
        return reconstruct(self.network, view_PCHW, self.precision)

    def compare(self, answer: Tensor, true_PCHW: Tensor, k_P: Tensor) -> Tensor:
        """Return the mean square error of reconstructions, [P]."""
        return (answer - true_PCHW).square().mean((1, 2, 3))

    def picture(self, answer: Tensor) -> Tensor:
        """Return reconstructions unchanged."""
        return answer

    def errors(self, x_NCHW: Tensor, permutations: slice = slice(None)) -> Tensor:
        """Return the differentiable mean square error of all or some puzzles of every image, shape [N, K]."""
        return self.squared_errors(x_NCHW, permutations).mean((2, 3, 4))

    def squared_errors(self, x_NCHW: Tensor, permutations: slice = slice(None)) -> Tensor:
        """Return the differentiable square error of every pixel, including padding, shape [N, K, C, H, W]."""
        padded = self.prepare(x_NCHW)
        puzzle_NKCHW = self.puzzler.shuffle_all(padded, permutations)
        solved = self.answer(puzzle_NKCHW.flatten(0, 1)).reshape(puzzle_NKCHW.shape)
        return (solved - padded[:, None]).square()

    def views_at_once(self) -> int:
        """Return how many puzzles are reconstructed at once, so that their maps fit the cache or the GPU."""
        numbers = self.puzzler.height * self.puzzler.width * self.base_channels
        return max(1, room(CHUNK_NUMBERS, self.device) // numbers)

    def differentiable_views_at_once(self) -> int:
        """Return how many puzzles are in memory at once with their gradients."""
        sides = self.shape.height * self.shape.width
        puzzle_bytes = ACTIVATIONS * 4 * sides * max(self.base_channels, self.shape.channels)
        free = CPU_BYTES / MEMORY_SHARE
        if self.device.type == "cuda":
            there, whole = torch.cuda.mem_get_info(self.device)
            free = min(there, whole * share_of_gpu(self.device))
        most = self.at_once.count if self.at_once else self.views_at_once()
        return max(1, min(most, int(MEMORY_SHARE * free) // puzzle_bytes))

    def chunk_errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the error matrix, with as many permutations at once as fit into memory."""
        return torch.cat([self.errors(x_NCHW, permutations) for permutations in self._permutation_chunks()], dim=1)

    @torch.no_grad()
    def maps(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the error matrix [N, K] and each image's error map that makes up its score, [N, H, W].

        A map is the sum of the permutations' maps, weighted as in the aggregation: the minimum's or maximum's map, or
        the mean. Its mean over all pixels of the padded image is the score; for the norm ``l2``, the root of the mean
        of its squares is. 1 is the error of a typical pixel of the validation images.

        Raises:
            UserError: memory is too small for one puzzle.
        """
        self.network.eval()
        height, width, error = self.shape.height, self.shape.width, self.reading.error
        divisor_K = scoring.normalisation(self.validation_NK, error)
        error_NK = torch.empty(len(images_NCHW), self.views, device=self.device)
        map_NHW = torch.empty(len(images_NCHW), height, width, device=self.device)

        def work(part: slice, x_NCHW: Tensor) -> None:
            squared_nKHW = torch.empty(len(x_NCHW), self.views, height, width, device=self.device)
            for permutations in self._permutation_chunks():
                squared_nkCHW = self.squared_errors(x_NCHW, permutations)
                error_NK[part, permutations] = squared_nkCHW.mean((2, 3, 4))
                squared_nKHW[:, permutations] = squared_nkCHW.mean(2)[..., :height, :width]
            map_nKHW = scoring.normed(squared_nKHW, error) / divisor_K[:, None, None]
            weight_nK = scoring.weights(
                scoring.normalised(error_NK[part], self.validation_NK, error), self.reading.aggregation
            )
            map_NHW[part] = torch.einsum("nk,nkhw->nhw", weight_nK, map_nKHW)

        self.by_chunks(images_NCHW, work)
        return error_NK, map_NHW

    def _permutation_chunks(self) -> Iterator[slice]:
        """Yield slices of the permutations: all at once unless memory is short."""
        assert self.at_once is not None
        for start in range(0, self.views, self.at_once.count):
            yield slice(start, min(start + self.at_once.count, self.views))

    def _keep_views(self, kept: Sequence[int]) -> None:
        """Score by these puzzles only."""
        self.puzzle_set, self._puzzler = self.puzzle_set.of(kept), None

    def describe(self) -> dict[str, Any]:
        """Return the width of the network and the puzzles."""
        puzzle_set = self.puzzle_set
        return {
            "base_channels": self.base_channels,
            "puzzles": {"kind": puzzle_set.kind, "grid": self.grid, "permutations": puzzle_set.permutations},
        }

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with the described network and puzzles, within bounds."""
        base = int(described["base_channels"])
        if not 1 <= base <= MOST_BASE_CHANNELS:
            raise ValueError(f"base_channels must be 1 to {MOST_BASE_CHANNELS}, not {base}")
        puzzle_set = _read_puzzle_set(described["puzzles"])
        puzzles.check_memory(puzzle_set, shape.height, shape.width)
        network = UNet(channels=shape.channels, base_channels=base)
        return cls(network, puzzle_set, shape=shape, reading=reading, precision=precision)

    def placed(self, device: torch.device) -> Self:
        """Move to a device, with the network's weights in the fastest layouts there, and the fastest kernels."""
        height, width = (puzzles.padded_side(side, self.grid) for side in (self.shape.height, self.shape.width))
        place(self.network, device, side=max(height, width))
        choose_kernels(self.network, height=height, width=width, precision=self.precision)
        self._freeze()
        return self.to(device)

    def _freeze(self) -> None:
        """Ask for no gradients of weights any more: attacks need the image's alone, and matrix products give each."""
        self.network.requires_grad_(False)


def scoring_set(settings: PuzzleSettings, training_set: puzzles.PuzzleSet) -> puzzles.PuzzleSet:
    """Return the scoring puzzle set: the training's, or all 23."""
    if scored_by_all(settings):
        return puzzles.PuzzleSet("jigsaw", 2, puzzles.all_permutations())
    return training_set


def _read_puzzle_set(content: dict[str, Any]) -> puzzles.PuzzleSet:
    """Return a description's puzzle set; ValueError if it is invalid."""
    kind, grid = content["kind"], int(content["grid"])
    permutations = tuple(tuple(int(i) for i in order) for order in content["permutations"])
    if kind == "rotation":
        possible = grid == 1 and all(order in {(turns,) for turns in ROTATIONS} for order in permutations)
    else:
        pieces = list(range(grid * grid)) if grid in (2, 3) else None
        possible = kind == "jigsaw" and all(sorted(order) == pieces for order in permutations)
    if len(permutations) > MOST_PERMUTATIONS:
        raise ValueError(f"its {len(permutations)} permutations are more than {MOST_PERMUTATIONS}")
    if not possible or not permutations:
        raise ValueError(f"its puzzles are not permutations of {grid}×{grid} pieces")
    return puzzles.PuzzleSet(kind, grid, permutations)
