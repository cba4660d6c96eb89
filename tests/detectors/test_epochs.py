"""Training in epochs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from puzzle_study.detectors import epochs
from puzzle_study.detectors.base import Run, TrainingDiverged


def test_every_image_is_seen_once_an_epoch_and_none_alone() -> None:
    batches: list[Tensor] = []

    def step(x_NCHW: Tensor) -> dict[str, Tensor]:
        batches.append((255 * x_NCHW).round().flatten())
        return {"loss": x_NCHW.mean()}

    images = torch.arange(9, dtype=torch.uint8).reshape(9, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    epochs.train(images, Run(), step, epochs=2, batch_size=4, parts={}, generator=generator)
    assert [len(batch) for batch in batches] == [4, 5, 4, 5]
    for first in (0, 2):
        assert sorted(torch.cat(batches[first : first + 2]).tolist()) == list(range(9))


def test_a_loss_that_is_not_finite_stops_the_training_and_is_named() -> None:
    def step(x_NCHW: Tensor) -> dict[str, Tensor]:
        return {"loss_rec": x_NCHW.mean() / 0}

    with pytest.raises(TrainingDiverged, match=r"epoch 1.*rec inf.*learning_rate"):
        epochs.train(
            torch.ones(3, 1, 1, 1, dtype=torch.uint8),
            Run(),
            step,
            epochs=2,
            batch_size=4,
            parts={},
            generator=torch.Generator(),
        )


def test_networks_are_built_from_their_seed_alone() -> None:
    before = torch.get_rng_state()
    with epochs.seeded(3):
        one = nn.Linear(4, 4)
    torch.rand(1)
    with epochs.seeded(3):
        two = nn.Linear(4, 4)
    assert torch.equal(one.weight, two.weight)
    torch.set_rng_state(before)
