"""Jigsaw: a network learns which permutation of its pieces was applied to an image, and is unsure about anomalies.

Shape legend: as in pretext.py, and T pieces (tiles), h and w pixels a side of one, F features of one.

As in the paper the network is context-free: it sees one piece at a time, normalised to mean 0 and deviation 1, and only
the head reads all pieces together. The permutations are chosen one by one, far apart in Hamming distance
(Algorithm 1 there). The training is that of the authors' released files: SGD with momentum 0.9, learning rate 0.01, a
tenth of it after each two sevenths of 70 epochs (350,000 steps on ImageNet), 256 images in a step, 100 permutations.
The score is RotNet's, the mean of −log softmax of the right permutation; the Puzzle-AE paper, which compares with
it, names no other.

Differences from the paper: the features are GT's WRN-10-4 instead of an AlexNet's, and the head is linear, without the
hidden layer. Pieces touch each other, also in training: without the paper's gaps and jitter each puzzle can be undone
exactly, but matching edges help to solve it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import Self

from puzzle_study.config.types import Costs, Images, Layer, Reading, Rule, Section, unit
from puzzle_study.detectors.base import Shape
from puzzle_study.detectors.devices import Precision, autocast
from puzzle_study.detectors.pretext import MOST_CLASSES, BatchSize, Epochs, Pretext, PretextSettings, Rate, Train
from puzzle_study.detectors.puzzle_ae.puzzles import Permutation, pad
from puzzle_study.errors import UserError

MOMENTUM = 0.9
FLAT = 1e-4
"""Added to a piece's variance, so that a piece of a single colour stays flat: a hundredth of white."""


class Puzzle(Section):
    """The puzzles."""

    grid: Literal[2, 3] = Field(3, json_schema_extra=unit("pieces per side"), description="Pieces per side.")
    permutations: int = Field(
        100,
        ge=2,
        le=MOST_CLASSES,
        json_schema_extra=unit("permutations"),
        description="P, permutations far apart from each other; grid 2 has 24.",
    )


def _check_permutations(settings: JigsawSettings, data: Any) -> None:
    puzzle = settings.puzzle
    if puzzle.permutations > (available := math.factorial(puzzle.grid**2)):
        raise UserError(
            f"puzzle.permutations is {puzzle.permutations}, but puzzle.grid {puzzle.grid} has {available}; lower it"
        )


class JigsawTrain(Train):
    """The training."""

    epochs: Epochs = 70
    batch_size: BatchSize = 256
    learning_rate: Rate = 0.01


class JigsawSettings(PretextSettings):
    """The puzzles, the network, its training and the score."""

    DATASETS: ClassVar[Mapping[str, Layer]] = {"digits": {"preset": "fast"}, "folder": {"preset": "fast"}}
    PRESETS: ClassVar[Mapping[str, Layer]] = {
        "paper": {},
        "fast": {
            "puzzle": {"grid": 2, "permutations": 24},
            "model": {"widen": 1},
            "train": {"epochs": 30, "batch_size": 128, "learning_rate": 0.05},
        },
    }
    BUDGET: ClassVar[tuple[str, ...]] = (*PretextSettings.BUDGET, "puzzle.permutations")
    RULES: ClassVar[tuple[Rule, ...]] = (Rule(("puzzle.permutations", "puzzle.grid"), _check_permutations),)
    SMALL: ClassVar[Layer] = {
        "puzzle": {"grid": 2, "permutations": 6},
        "model": {"widen": 1},
        "train": {"epochs": 8, "batch_size": 16, "views": 2, "precision": "float32"},
    }

    puzzle: Puzzle = Field(Puzzle(), description="The puzzles.")
    train: JigsawTrain = Field(JigsawTrain(), description="The training.")

    @property
    def transformations(self) -> int:
        """P."""
        return self.puzzle.permutations

    def costs(self, images: Images) -> Costs:
        """Return a trial's costs; scoring runs each piece of an image through the network once."""
        costs = super().costs(images)
        return replace(costs, score=costs.score / self.transformations)


def momentum(parameters: Iterable[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """Return SGD with momentum."""
    return torch.optim.SGD(
        parameters, lr=train.learning_rate, momentum=MOMENTUM, weight_decay=train.weight_decay, fused=True
    )


@lru_cache
def distant_permutations(grid: int, count: int) -> tuple[Permutation, ...]:
    """Return this many permutations of the pieces, each as far as possible on average from all before it.

    The first is the identity. Ties go to the first in lexicographic order, so a longer choice begins with the
    shorter one.
    """
    every = np.array(list(itertools.permutations(range(grid**2))), dtype=np.int8)
    distance = np.zeros(len(every), dtype=np.int64)
    chosen = [0]
    while len(chosen) < count:
        distance += (every != every[chosen[-1]]).sum(axis=1)
        distance[chosen[-1]] = np.iinfo(np.int64).min // 2
        chosen.append(int(distance.argmax()))
    return tuple(tuple(map(int, every[number])) for number in chosen)


class Jigsaw(Pretext):
    """A permutation's error is how unsure the network is about it."""

    name = "jigsaw"
    title = "Jigsaw"
    source = "Noroozi, Favaro 2016: Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles"
    Settings = JigsawSettings
    optimiser = momentum
    drops, drop = (2 / 7, 4 / 7, 6 / 7), 0.1

    order_KT: Tensor
    inverse_KT: Tensor

    def __init__(self, *, grid: int, permutations: tuple[Permutation, ...], **network: Any) -> None:
        super().__init__(transformations=len(permutations), pieces=grid**2, **network)
        self.grid, self.permutations = grid, permutations
        self.register_buffer("order_KT", torch.tensor(permutations), persistent=False)
        self.register_buffer("inverse_KT", torch.tensor(permutations).argsort(1), persistent=False)

    @classmethod
    def made(cls, settings: JigsawSettings, **network: Any) -> Self:
        """Return a detector with its initial weights."""
        puzzle = settings.puzzle
        return cls(grid=puzzle.grid, permutations=distant_permutations(puzzle.grid, puzzle.permutations), **network)

    def prepare(self, x_NCHW: Tensor) -> Tensor:
        """Return images padded to multiples of the grid, black at the bottom and on the right."""
        return pad(x_NCHW, self.grid)

    def view(self, prepared_PCHW: Tensor, k_P: Tensor) -> Tensor:
        """Return puzzle k of each padded image."""
        piece_PTChw = self._cut(prepared_PCHW)
        row_P1 = torch.arange(len(k_P), device=k_P.device)[:, None]
        return self._joined(piece_PTChw[row_P1, self.order_KT[k_P]])

    def views_of(self, prepared_NCHW: Tensor, k_K: Tensor) -> Tensor:
        """Return some puzzles of each padded image."""
        return self._joined(self._cut(prepared_NCHW)[:, self.order_KT[k_K]])

    def undo(self, view_NKCHW: Tensor) -> Tensor:
        """Return all puzzles put back in order."""
        piece_NKTChw = self._cut(view_NKCHW)
        k_K1 = torch.arange(self.views, device=view_NKCHW.device)[:, None]
        return self._joined(piece_NKTChw[:, k_K1, self.inverse_KT])

    def features(self, view_PCHW: Tensor) -> Tensor:
        """Return the features of all pieces of each view, in the view's order, [P, T·F]."""
        return self._piece_features(view_PCHW).flatten(1)

    def all_losses(self, x_NCHW: Tensor, views: slice = slice(None)) -> Tensor:
        """Return the losses of each image's puzzles, running its pieces through the network once, [N, K]."""
        with autocast(self.device, self.precision):
            feature_NTF = self._piece_features(self.prepare(x_NCHW)).float()
        return self.losses_of(
            self.head(feature_NTF[:, self.order_KT[self.view_K[views]]].flatten(2).flatten(0, 1)), views
        )

    def views_at_once(self) -> int:
        """Return the number of puzzles of the images that go through the network at once."""
        return super().views_at_once() * self.views

    def _piece_features(self, x_NCHW: Tensor) -> Tensor:
        """Return the features of the pieces of images, [N, T, F]."""
        piece_NTChw = self._cut(x_NCHW)
        mean, variance = piece_NTChw.mean((-2, -1), keepdim=True), piece_NTChw.var((-2, -1), keepdim=True, correction=0)
        scaled = (piece_NTChw - mean) / (variance + FLAT).sqrt()
        feature: Tensor = self.trunk(scaled.flatten(0, 1))
        return feature.reshape(-1, self.grid**2, self.trunk.features)

    def _cut(self, x: Tensor) -> Tensor:
        """Return the pieces of images [..., C, H, W] in reading order, [..., T, C, h, w]."""
        grid = self.grid
        height, width = x.shape[-2] // grid, x.shape[-1] // grid
        split = x.reshape(*x.shape[:-2], grid, height, grid, width)
        return split.movedim((-4, -2), (-5, -4)).flatten(-5, -4)

    def _joined(self, piece: Tensor) -> Tensor:
        """Return the images of these pieces, [..., T, C, h, w]."""
        split = piece.reshape(*piece.shape[:-4], self.grid, self.grid, *piece.shape[-3:])
        return split.movedim((-5, -4), (-4, -2)).flatten(-4, -3).flatten(-2, -1)

    def describe(self) -> dict[str, Any]:
        """Return the size of the network, and the puzzles."""
        return super().describe() | {"grid": self.grid, "permutations": self.permutations}

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with the described network and puzzles, within bounds."""
        grid = int(described["grid"])
        permutations = tuple(tuple(map(int, order)) for order in described["permutations"])
        pieces = list(range(grid**2)) if grid in (2, 3) else None
        if not permutations or any(sorted(order) != pieces for order in permutations):
            raise ValueError(f"its permutations are not all of {grid}×{grid} pieces")
        depth, widen = int(described["depth"]), int(described["widen"])
        network = {"depth": depth, "widen": widen, "shape": shape, "reading": reading, "precision": precision}
        return cls(grid=grid, permutations=permutations, **network)
