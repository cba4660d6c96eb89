"""RotNet: a network learns by how many quarter turns an image was rotated, and is unsure about anomalies.

Shape legend: as in pretext.py.

The training is that of the authors' code for CIFAR-10: SGD with Nesterov momentum, learning rate 0.1, divided by 5
after 60, 120 and 160 of 200 epochs, the four turns of 128 images in a step. The score is that of Hendrycks et al. 2019,
the mean of −log softmax of the right turn.

Differences from the code: the network is GT's WRN-10-4 instead of a Network in Network, so that RotNet, Jigsaw and GT
differ only in their task. An image's turns need not be in the same step, which has 512 pairs of image and turn. Images
that are not square get a black frame, whose place reveals the turn: crop them first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from puzzle_study.config.types import Layer
from puzzle_study.detectors.canvas import Moved, Movement
from puzzle_study.detectors.pretext import BatchSize, Epochs, PretextSettings, Rate, Train, Views

TURNS = 4
MOMENTUM = 0.9


class RotNetTrain(Train):
    """The training."""

    epochs: Epochs = 200
    batch_size: BatchSize = TURNS * 128
    views: Views = TURNS
    learning_rate: Rate = 0.1


class RotNetSettings(PretextSettings):
    """The network, its training and the score."""

    DATASETS: ClassVar[Mapping[str, Layer]] = {"digits": {"preset": "fast"}, "folder": {"preset": "fast"}}
    PRESETS: ClassVar[Mapping[str, Layer]] = {
        "paper": {},
        "fast": {"model": {"widen": 1}, "train": {"epochs": 10, "batch_size": 128}},
    }
    SMALL: ClassVar[Layer] = {
        "model": {"widen": 1},
        "train": {"epochs": 8, "batch_size": 16, "learning_rate": 0.02, "precision": "float32"},
    }

    train: RotNetTrain = Field(RotNetTrain(), description="The training.")

    @property
    def transformations(self) -> int:
        """Four turns."""
        return TURNS


def nesterov(parameters: Iterable[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum."""
    return torch.optim.SGD(
        parameters,
        lr=train.learning_rate,
        momentum=MOMENTUM,
        weight_decay=train.weight_decay,
        nesterov=True,
        fused=True,
    )


class RotNet(Moved):
    """A turn's error is how unsure the network is about it."""

    name = "rotnet"
    title = "RotNet"
    source = "Gidaris, Singh, Komodakis 2018: Unsupervised Representation Learning by Predicting Image Rotations"
    Settings = RotNetSettings
    optimiser = nesterov
    drops, drop = (0.3, 0.6, 0.8), 0.2

    @classmethod
    def movements(cls, side: int) -> tuple[list[Movement], int]:
        """Return the four turns."""
        return [Movement(flip=False, down=0, right=0, turns=turns) for turns in range(TURNS)], 0
