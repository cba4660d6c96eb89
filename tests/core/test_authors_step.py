"""One training step of ``preset: authors_code`` against numbers that the authors' own code gave."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from puzzle_study.config import layers
from puzzle_study.detectors.base import Context, Shape
from puzzle_study.detectors.puzzle_ae import puzzles, training
from puzzle_study.detectors.puzzle_ae.adversary import perturb
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.puzzle_ae.training import Trainer

from . import tiny

RECORDED = json.loads((Path(__file__).parent / "authors_step.json").read_text(encoding="utf-8"))
IMAGES = 3
SHAPES = {"mnist": (IMAGES, 1, 28, 28), "cifar10": (IMAGES, 3, 32, 32)}
PERMUTATION = (2, 0, 3, 1)
HIDDEN = PERMUTATION[1]
"""They hide the piece at position 1 of the puzzle."""


def drawn(name: str, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Numbers in [low, high) that follow from the name on every machine and in every version of every library."""
    raw = np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * math.prod(shape)), "<u4")
    return torch.from_numpy((low + (high - low) * (raw / 2**32)).astype(np.float32)).reshape(shape)


def images(case: str) -> Tensor:
    """Images [N, C, H, W] in [0, 1] of 4 × 4 patches, many of them black or white."""
    count, channels, side, _ = SHAPES[case]
    raw = np.frombuffer(hashlib.shake_256(f"images {case}".encode()).digest(count * channels * 16), np.uint8)
    patches = np.clip(2 * raw.astype(np.float32) - 128, 0, 255).reshape(count, channels, 4, 4)
    return torch.from_numpy(patches.repeat(side // 4, 2).repeat(side // 4, 3)) / 255


def fill(network: nn.Module, name: str) -> None:
    """Set every weight; the authors' networks have the same ones in the same order."""
    for number, (parameter, weight) in enumerate(network.named_parameters()):
        key, shape = f"{name} {number}", tuple(weight.shape)
        if weight.dim() > 1:
            bound = math.sqrt(6 / math.prod(shape[1:]))
            values = drawn(key, shape, -bound, bound) * (1.0 if name == "network" else 0.5)
        elif name == "network":
            values = drawn(key, shape, 0.0, 0.1)
        else:
            values = parameter.endswith("weight") + drawn(key, shape, -0.1, 0.1)
        weight.data.copy_(values)


def settings(case: str) -> PuzzleSettings:
    layer = layers.resolved(PuzzleSettings, {"preset": "authors_code", "model": {"base_channels": 4}}, case)
    del layer["data"]
    return PuzzleSettings.model_validate(layer)


def step(case: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Trainer, Tensor, list[float]]:
    """A trainer after one step on the images and draws of the recording, the input of that step and its losses."""
    values = settings(case)
    _, channels, side, _ = SHAPES[case]
    assert values.train.precision == "float32"
    trainer = Trainer(values, Context(Shape(channels, side, side), 0, tiny.CPU, values.train.precision, case, "3"))
    assert trainer.discriminator is not None
    fill(trainer.network, "network")
    fill(trainer.discriminator, "discriminator")
    epsilon = values.train.adversary.epsilon
    noise = drawn(f"noise {case}b", SHAPES[case], -epsilon, epsilon)
    draws = iter((puzzles.all_permutations().index(PERMUTATION), HIDDEN))
    monkeypatch.setattr(trainer, "_draw", lambda below, count: torch.tensor([next(draws)]))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *_, **__: self.copy_(noise))
    inputs: list[Tensor] = []

    def kept(*arguments: Any, **more: Any) -> Tensor:
        inputs.append(perturb(*arguments, **more))
        return inputs[-1]

    monkeypatch.setattr(training, "perturb", kept)
    losses = trainer._step(images(case)).tolist()
    return trainer, inputs[0], losses


@pytest.mark.parametrize("case", SHAPES)
def test_a_step_of_the_authors_preset_is_the_step_of_the_authors_code(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clamped target would move rows of the input by up to 4e-3 (7e-4 in colour)."""
    recorded = RECORDED[case]
    trainer, found, losses = step(case, monkeypatch)
    rows = torch.tensor(recorded["input_row_means"])
    torch.testing.assert_close(found.mean((0, 1, 3)), rows, rtol=0, atol=2e-5)
    assert losses == pytest.approx([recorded[name] for name in ("loss_rec", "loss_adv", "loss_d")], rel=2e-5)
    discriminator = trainer.discriminator
    assert discriminator is not None
    for network, name, factor in ((trainer.network, "network", 1), (discriminator, "discriminator", 2)):
        norms = [weight.grad.norm().item() for weight in network.parameters() if weight.grad is not None]
        assert norms == pytest.approx([factor * norm for norm in recorded[f"{name}_gradient_norms"]], rel=2e-3)
    head = torch.cat([weight.detach().flatten() for weight in trainer.network.head.parameters()])
    classifier = discriminator.classifier.weight.detach().flatten()[:16]
    torch.testing.assert_close(head, torch.tensor(recorded["head_after"]), rtol=0, atol=2e-5)
    torch.testing.assert_close(classifier, torch.tensor(recorded["classifier_after"]), rtol=0, atol=4e-6)
