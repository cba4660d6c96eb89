"""The fitted Puzzle-AE: images in, error matrix and anomaly scores out (paper, section 3.2).

Shape legend: N images, K permutations, C channels, H and W pixels (of the image, before padding).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puzzle_study import config
from puzzle_study.detectors import checkpoint, scoring
from puzzle_study.detectors.devices import Precision, autocast
from puzzle_study.detectors.memory import first_line, halving, is_out_of_memory
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.networks import UNet, place
from puzzle_study.detectors.puzzle_ae.rules import ROTATIONS
from puzzle_study.errors import UserError
from puzzle_study.results import replacing, write_text

FORMAT = 1
WEIGHTS, DESCRIPTION = "weights.pt", "detector.json"
MOST_CHANNELS = 1024
"""Channels of an image, for arrays of many bands; image files have 1 or 3."""
# Numbers of the U-Net's widest feature map for one chunk of puzzles: about 8 MNIST images × 23 at base 64 on a CPU.
CHUNK_NUMBERS = {"cpu": 10_000_000, "cuda": 400_000_000}


def to_float(images_NCHW: Tensor) -> Tensor:
    """Return images in [0, 1]: uint8 divided by 255, floats as they are."""
    return images_NCHW.float().div_(255) if images_NCHW.dtype == torch.uint8 else images_NCHW


@dataclass(frozen=True)
class Shape:
    """What a detector must know to build its network and read images."""

    channels: int
    height: int
    width: int
    base_channels: int


class PuzzleDetector(nn.Module):
    """A trained U-Net with its scoring puzzle set and validation errors.

    As a module it maps images [N, C, H, W] in [0, 1] to differentiable anomaly scores [N]; every tensor it needs
    is a parameter or a buffer, so that ``.to(device)`` moves all of it.

    Args:
        network: the U-Net.
        puzzle_set: permutations in scoring.
        shape: image and network sizes.
        score: error norm and aggregation of :meth:`forward`.
        precision: arithmetic of the convolutions.
    """

    validation_NK: Tensor

    def __init__(
        self,
        network: UNet,
        puzzle_set: puzzles.PuzzleSet,
        *,
        shape: Shape,
        score: config.Score,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.network = network
        self.puzzle_set = puzzle_set
        self.shape = shape
        self.score = score
        self.precision: Precision = precision
        self.grid = puzzle_set.grid
        self.register_buffer("validation_NK", torch.ones(1, len(puzzle_set)))
        self._puzzler: puzzles.Puzzler | None = None
        self._halvings = 0

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.head.weight.device

    @property
    def puzzler(self) -> puzzles.Puzzler:
        """Index tables of the scoring puzzles on the network's device."""
        if self._puzzler is None or self._puzzler.source_KL.device != self.device:
            self._puzzler = puzzles.Puzzler(
                self.puzzle_set,
                height=puzzles.padded_side(self.shape.height, self.grid),
                width=puzzles.padded_side(self.shape.width, self.grid),
                device=self.device,
            )
        return self._puzzler

    def with_score(self, score: config.Score) -> PuzzleDetector:
        """Return a detector that shares this one's weights and aggregates differently."""
        other = PuzzleDetector(self.network, self.puzzle_set, shape=self.shape, score=score, precision=self.precision)
        other.validation_NK = self.validation_NK
        other._halvings = self._halvings
        return other

    def reconstruct(self, puzzle_NCHW: Tensor) -> Tensor:
        """Return the network's answer to puzzles already made and padded, float32, same shape."""
        with autocast(self.device, self.precision):
            reconstruction: Tensor = self.network(puzzle_NCHW.contiguous(memory_format=torch.channels_last))
        return reconstruction.float()

    def errors(self, x_NCHW: Tensor, permutations: slice = slice(None)) -> Tensor:
        """Return the differentiable mean square error of every puzzle of every image, shape [N, K].

        Args:
            x_NCHW: images in [0, 1] on the detector's device; all N·K puzzles are in memory at once.
            permutations: which of the K permutations.
        """
        return self.squared_errors(x_NCHW, permutations).mean((2, 3, 4))

    def squared_errors(self, x_NCHW: Tensor, permutations: slice = slice(None)) -> Tensor:
        """Return the differentiable square error of every pixel, padding included, shape [N, K, C, H, W]."""
        padded = puzzles.pad(x_NCHW, self.grid)
        puzzle_NKCHW = self.puzzler.shuffle_all(padded, permutations)
        solved = self.reconstruct(puzzle_NKCHW.flatten(0, 1)).reshape(puzzle_NKCHW.shape)
        return (solved - padded[:, None]).square()

    def scores(self, error_NK: Tensor) -> Tensor:
        """Return the scores of images from their error matrix under this detector's score settings, shape [N]."""
        return scoring.scores(error_NK, self.validation_NK, error=self.score.error, aggregation=self.score.aggregation)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the differentiable anomaly score of each image, shape [N]."""
        return self.scores(self.errors(x_NCHW))

    def chunks(self, images: int, start: int = 0) -> Iterator[slice]:
        """Yield slices of images whose puzzles fit the cache or the GPU together; of one image at least."""
        yield from _slices(images, max(1, self.puzzles_at_once // len(self.puzzle_set)), start)

    def permutation_chunks(self) -> Iterator[slice]:
        """Yield slices of the permutations, for images of :meth:`chunks`: all at once but where memory is short."""
        yield from _slices(len(self.puzzle_set), self.puzzles_at_once)

    @property
    def puzzles_at_once(self) -> int:
        """How many puzzles are reconstructed together without their feature maps outgrowing the cache or the GPU."""
        numbers = self.puzzler.height * self.puzzler.width * self.shape.base_channels
        return max(1, (CHUNK_NUMBERS[self.device.type] // numbers) >> self._halvings)

    def halve(self) -> bool:
        """Reconstruct half as many puzzles together from now on; False where it is one already."""
        there = self.puzzles_at_once
        self._halvings += 1
        return there > 1

    @torch.no_grad()
    def error_matrix(self, images_NCHW: Tensor) -> Tensor:
        """Return the error matrix of uint8 or [0, 1] images, float32 [N, K] on the detector's device.

        Where memory runs out it goes on with half as many puzzles at once.

        Raises:
            UserError: memory is too small for one puzzle.
        """
        self.network.eval()
        error_NK = torch.empty(len(images_NCHW), len(self.puzzle_set), device=self.device)
        done = 0

        def some() -> int:
            part = next(self.chunks(len(images_NCHW), done))
            x_NCHW = to_float(images_NCHW[part].to(self.device))
            for permutations in self.permutation_chunks():
                error_NK[part, permutations] = self.errors(x_NCHW, permutations)
            return int(part.stop)

        while done < len(images_NCHW):
            done = halving(self, some)
        return error_NK

    def calibrate(self, validation_NCHW: Tensor) -> None:
        """Measure the validation errors that eq. 6 divides by."""
        self.validation_NK = self.error_matrix(validation_NCHW).clone()

    def save(self, folder: Path, description: dict[str, object]) -> None:
        """Write ``weights.pt`` and ``detector.json`` into an existing folder.

        Args:
            folder: where to; its two files are replaced.
            description: what else to record (settings, task, seed).
        """
        state = {
            "network": {name: tensor.cpu() for name, tensor in self.network.state_dict().items()},
            "validation_NK": self.validation_NK.cpu(),
        }
        with replacing(folder / WEIGHTS, lasting=True) as temporary:
            checkpoint.write(state, temporary)
        # A trial's description has the format of its record; that of these two files is another thing.
        content = description | {
            "format": FORMAT,
            "channels": self.shape.channels,
            "height": self.shape.height,
            "width": self.shape.width,
            "base_channels": self.shape.base_channels,
            "puzzles": {"kind": self.puzzle_set.kind, "grid": self.grid, "permutations": self.puzzle_set.permutations},
            "score": self.score.model_dump(mode="json"),
            "precision": self.precision,
        }
        write_text(folder / DESCRIPTION, json.dumps(content, indent=2) + "\n")


def _slices(length: int, step: int, first: int = 0) -> Iterator[slice]:
    for start in range(first, length, step):
        yield slice(start, min(start + step, length))


def load(folder: Path, *, device: torch.device) -> PuzzleDetector:
    """Load a saved detector; weights are read as data, never as code.

    Raises:
        UserError: the folder is not a detector, one of its files is damaged, or the detector does not fit the memory.
    """
    content = read_description(folder)
    try:
        shape = Shape(*(int(content[key]) for key in ("channels", "height", "width", "base_channels")))
        if min(shape.height, shape.width) < 16:
            raise ValueError(f"{shape.height}×{shape.width} pixels are too few")
        if not 1 <= shape.channels <= MOST_CHANNELS:
            raise ValueError(f"images have 1 to {MOST_CHANNELS} channels, not {shape.channels}")
        if not 1 <= shape.base_channels <= config.MOST_BASE_CHANNELS:
            raise ValueError(f"base_channels is 1 to {config.MOST_BASE_CHANNELS}, not {shape.base_channels}")
        if content["precision"] not in ("float32", "bfloat16"):
            raise ValueError(f"precision {content['precision']} is unknown")
        puzzle_set = _read_puzzle_set(content["puzzles"])
        puzzles.check_memory(puzzle_set, shape.height, shape.width)
        state = checkpoint.read(folder / WEIGHTS)
        network = UNet(channels=shape.channels, base_channels=shape.base_channels)
        network.load_state_dict(state["network"])
        side = puzzles.padded_side(max(shape.height, shape.width), puzzle_set.grid)
        detector = PuzzleDetector(
            place(network, device, side=side).eval(),
            puzzle_set,
            shape=shape,
            score=config.Score.model_validate(content["score"]),
            precision=content["precision"],
        )
        detector.validation_NK = state["validation_NK"]
        images, permutations = detector.validation_NK.shape
        if images == 0 or permutations != len(puzzle_set) or not detector.validation_NK.isfinite().all():
            raise ValueError(f"its validation errors are not those of {len(puzzle_set)} permutations")
        return detector.to(device)
    except (
        MemoryError,
        checkpoint.DamagedFile,
        UserError,
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        AttributeError,
    ) as error:
        if is_out_of_memory(error):
            raise UserError(
                f"the detector in {folder} does not fit the memory ({first_line(error)}); end what else uses it, or "
                f"compute on the CPU"
            ) from error
        raise UserError(
            f"{folder} holds a damaged detector ({first_line(error)}); train it again or restore {WEIGHTS} and "
            f"{DESCRIPTION}"
        ) from error


def _read_puzzle_set(content: dict[str, Any]) -> puzzles.PuzzleSet:
    """Return the puzzle set of a description; ValueError where it is none."""
    kind, grid = content["kind"], int(content["grid"])
    permutations = tuple(tuple(int(i) for i in order) for order in content["permutations"])
    if kind == "rotation":
        possible = grid == 1 and all(order in {(turns,) for turns in ROTATIONS} for order in permutations)
    else:
        pieces = list(range(grid * grid)) if grid in (2, 3) else None
        possible = kind == "jigsaw" and all(sorted(order) == pieces for order in permutations)
    if len(permutations) > config.MOST_PERMUTATIONS:
        raise ValueError(f"its {len(permutations)} permutations are more than {config.MOST_PERMUTATIONS}")
    if not possible or not permutations:
        raise ValueError(f"its puzzles are no permutations of {grid}×{grid} pieces")
    return puzzles.PuzzleSet(kind, grid, permutations)


def read_description(folder: Path) -> dict[str, Any]:
    """Return what ``detector.json`` says.

    Raises:
        UserError: there is no such file, it is not JSON, or another version wrote it.
    """
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no detector ({DESCRIPTION} is missing); give a folder like best/CLASS"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); restore it or train again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of puzzle_study; this one reads format {FORMAT}")
    return content
