"""Images, settings and detectors small enough to train in milliseconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings as hypothesis_settings
from torch import Tensor, nn

from puzzle_study import config
from puzzle_study.config import layers
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors.base import Context, Shape
from puzzle_study.detectors.devices import Precision
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.detectors.puzzle_ae.networks import UNet, initialise_unet
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.puzzle_ae.training import EpochLosses, Trainer
from puzzle_study.trials.spec import TrialSpec, reference_settings

CPU = torch.device("cpu")
SIDE = 16
SMALL: dict[str, Any] = {
    "train.batch_size": 8,
    "data.max_train_images": 24,
    "data.max_test_images": 20,
    "evaluate.every": 2,
    "evaluate.max_images": 10,
    "puzzle.permutations": "two_swapped",
}
"""Settings of a trial of seconds."""


def examples(count: int) -> hypothesis_settings:
    """Settings of a property test: so many examples."""
    return hypothesis_settings(max_examples=count)


def images(count: int, *, channels: int = 1, side: int = SIDE, seed: int = 0) -> Tensor:
    """Random uint8 images [N, C, H, W] that have some structure."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    fine = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    grain = 0.05 * torch.rand(fine.shape, generator=generator)
    return ((fine * 0.95 + grain) * 255).round().to(torch.uint8)


def float_images(count: int, *, channels: int = 1, side: int = SIDE, seed: int = 0) -> Tensor:
    """The same in [0, 1]."""
    return images(count, channels=channels, side=side, seed=seed).float() / 255


BASE: dict[str, Any] = {
    "data.name": "digits",
    "model.base_channels": 2,
    "train.epochs": 2,
    "train.batch_size": 4,
    "train.precision": "float32",
}


def settings(values: Mapping[str, Any] | None = None) -> config.Settings:
    """A tiny configuration of Puzzle-AE with these values, by dotted name."""
    document = layers.merge(*(layers.nested(name, value) for name, value in {**BASE, **(values or {})}.items()))
    return config.Settings(
        detector="puzzle_ae",
        data=config.Data.model_validate(document.pop("data")),
        evaluate=config.Evaluate.model_validate(document.pop("evaluate", {})),
        own=PuzzleSettings.model_validate(document),
    )


def own(values: config.Settings) -> PuzzleSettings:
    """Puzzle-AE's own settings of a configuration."""
    assert isinstance(values.own, PuzzleSettings)
    return values.own


def puzzle_set(values: config.Settings) -> puzzles.PuzzleSet:
    """The training puzzle set of a configuration."""
    return puzzles.puzzle_set(own(values).puzzle, normal_class="3", dataset=values.data.name)


def trainer(
    values: config.Settings, *, channels: int = 1, side: int = SIDE, seed: int = 0, precision: Precision = "float32"
) -> Trainer:
    """A trainer on the CPU."""
    return Trainer(own(values), Context(Shape(channels, side, side), seed, CPU, precision, values.data.name, "3"))


def train(
    values: config.Settings, data: Tensor, *, seed: int = 0, precision: Precision = "float32"
) -> tuple[Trainer, list[EpochLosses]]:
    """Train to the end and return the losses of every epoch."""
    trained = trainer(values, channels=data.shape[1], side=data.shape[2], seed=seed, precision=precision)
    losses = []
    while not trained.finished:
        losses.append(trained.epoch(data))
    return trained, losses


def detector(
    puzzles_in_play: puzzles.PuzzleSet,
    *,
    channels: int = 1,
    side: int = SIDE,
    reading: config.Reading | None = None,
    seed: int = 0,
) -> PuzzleDetector:
    """An untrained detector with He weights, whose answers differ visibly between puzzles."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(channels=channels, base_channels=2)
        initialise_unet(network, "he")
    reading = reading or config.Reading("l2", "max")
    return PuzzleDetector(network, puzzles_in_play, shape=Shape(channels, side, side), reading=reading)


def trial(values: Mapping[str, Any] | None = None, *, seed: int = 0, kind: str = "puzzle_ae") -> TrialSpec:
    """A trial on the third digit; of another kind, as a reference beside such a configuration."""
    configuration = settings(values)
    if kind != "puzzle_ae":
        configuration = reference_settings(kind, configuration)
    return TrialSpec(configuration, TaskSpec("digits", "3"), seed, "0" * 16)


class Malicious:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def same_state(one: Any, other: Any) -> bool:
    """Whether two nested states hold bit-equal tensors and equal values."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return (
            isinstance(other, Mapping) and one.keys() == other.keys() and all(same_state(one[k], other[k]) for k in one)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_state, one, other))
    return bool(one == other)
