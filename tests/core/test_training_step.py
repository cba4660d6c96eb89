"""One step of the trainer against the reference with plain optimisers, and its losses one by one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from puzzle_study.detectors.puzzle_ae.puzzles import padded_side
from puzzle_study.detectors.puzzle_ae.training import Trainer, feature_matching, one_cycle

from . import reference, tiny
from .tiny import examples

IMAGES = 5

CASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "authors": {
        "puzzle.per_batch": True,
        "train.feature_loss": "elementwise",
        "train.adversary.noise": "twice",
        "train.adversary.target": "noisy",
    },
    "without_discriminator": {"train.lambda": 0.0},
    "without_adversary": {"train.adversary.method": "none"},
    "small_steps": {"train.adversary.alpha": 0.03},
    "pgd": {"train.adversary.method": "pgd", "train.adversary.alpha": 0.03, "train.adversary.steps": 3},
    "noise_twice": {"train.adversary.noise": "twice"},
    "noisy_target": {"train.adversary.target": "noisy"},
    "nine_pieces": {"puzzle.grid": 3, "puzzle.count": 5},
    "rotations": {"puzzle.kind": "rotation"},
    "nothing_hidden": {"puzzle.hide": "none"},
    "colour": {"channels": 3},
    "colour_hidden_black": {"channels": 3, "puzzle.hide": "black"},
    "large_lambda": {"train.lambda": 10.0},
    "own_discriminator_width": {"model.discriminator_channels": 4},
}


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.named_parameters()}


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.grad.clone() for name, tensor in module.named_parameters() if tensor.grad is not None}


class Reference:
    """The reference's side of a training: copies of a trainer's networks with plain optimisers.

    Args:
        trainer: whose networks and random state are copied before anything is trained.
        values: the trainer's configuration.
    """

    def __init__(self, trainer: Trainer, values: dict[str, Any]) -> None:
        self.settings = tiny.settings(values)
        self.own = tiny.own(self.settings)
        train = self.own.train
        self.draw = torch.Generator()
        self.draw.set_state(trainer.generator.get_state())
        self.network, self.discriminator = copy.deepcopy((trainer.network, trainer.discriminator))
        self.optimiser = torch.optim.Adam(
            self.network.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, foreach=False
        )
        self.discriminator_optimiser = None
        if self.discriminator is not None:
            self.discriminator_optimiser = torch.optim.Adam(
                self.discriminator.parameters(), lr=train.discriminator_learning_rate, betas=(0.5, 0.999), foreach=False
            )

    def epoch(self, data: Tensor) -> reference.Step:
        """One step on all images; the draws come in the trainer's order: images, permutations, pieces, noise."""
        puzzle, adversary, draw = self.own.puzzle, self.own.train.adversary, self.draw
        in_play = tiny.puzzle_set(self.settings)
        order = torch.randperm(len(data), generator=draw)
        x_NCHW = torch.stack([reference.padded(data[i].float() / 255, in_play.grid) for i in order])

        count = 1 if puzzle.per_batch else len(data)
        ks = torch.randint(len(in_play), (count,), generator=draw).tolist() * (len(data) // count)
        how = {"auto": "black" if data.shape[1] == 1 else "gray"}.get(puzzle.hide, puzzle.hide)
        concealed = list(x_NCHW)
        if how != "none":
            pieces = 2 if puzzle.kind == "rotation" else puzzle.grid
            numbers = torch.randint(pieces**2, (count,), generator=draw).tolist() * (len(data) // count)
            concealed = [reference.hidden(x, pieces, n, how) for x, n in zip(x_NCHW, numbers, strict=True)]
        made = [
            reference.puzzle_of(x, in_play.kind, in_play.grid, in_play.permutations[k])
            for x, k in zip(concealed, ks, strict=True)
        ]
        input_NCHW = torch.stack(made)
        if adversary.method != "none":
            noise = torch.empty_like(input_NCHW).uniform_(-adversary.epsilon, adversary.epsilon, generator=draw)
            input_NCHW = reference.adversarial(
                input_NCHW,
                self.network,
                noise,
                epsilon=adversary.epsilon,
                alpha=adversary.alpha,
                steps=adversary.steps if adversary.method == "pgd" else 1,
                noise=adversary.noise,
                target=adversary.target,
            )
        return reference.training_step(
            input_NCHW,
            x_NCHW,
            self.network,
            self.optimiser,
            self.discriminator,
            self.discriminator_optimiser,
            lambda_=self.own.train.lambda_,
            how=self.own.train.feature_loss,
        )


@pytest.mark.parametrize("case", CASES)
def test_a_training_step_equals_the_reference(case: str) -> None:
    """Gradients agree closely; weights to a share of the step, since Adam's first step is close to a sign."""
    values: dict[str, Any] = {"model.initialisation": "he", "train.batch_size": IMAGES, **CASES[case]}
    channels = values.pop("channels", 1)
    data = tiny.images(IMAGES, channels=channels)
    trainer = tiny.trainer(tiny.settings(values), channels=channels)
    slow = Reference(trainer, values)
    step, network, discriminator = slow.epoch(data), slow.network, slow.discriminator
    losses = trainer.epoch(data)

    assert losses.loss_rec == pytest.approx(step.loss_rec, rel=1e-4)
    assert losses.loss_adv == pytest.approx(step.loss_adv, rel=1e-4)
    assert losses.loss_d == pytest.approx(step.loss_d, rel=1e-4)
    pairs: list[tuple[nn.Module, nn.Module, float]] = [(trainer.network, network, 1e-3)]
    assert (trainer.discriminator is None) == (discriminator is None)
    if trainer.discriminator is not None and discriminator is not None:
        pairs.append((trainer.discriminator, discriminator, 2e-4))
    for trained, expected, learning_rate in pairs:
        largest = max(gradient.abs().max().item() for gradient in gradients(expected).values())
        torch.testing.assert_close(gradients(trained), gradients(expected), rtol=2e-3, atol=2e-5 * largest)
        difference = max((weights(trained)[n] - weights(expected)[n]).abs().max().item() for n in weights(expected))
        assert difference <= 0.05 * learning_rate


@pytest.mark.parametrize("how", ["batch_mean", "elementwise"])
def test_many_training_steps_equal_the_reference(how: str) -> None:
    """Moments and weight decay of Adam show from the second step on; a strong λ ties both networks together."""
    values = {
        "model.initialisation": "he",
        "train.batch_size": IMAGES,
        "train.epochs": 8,
        "train.lambda": 0.5,
        "train.weight_decay": 0.1,
        "train.adversary.method": "none",
        "train.feature_loss": how,
        "train.discriminator_learning_rate": 1e-2,
    }
    data = tiny.images(IMAGES)
    trainer = tiny.trainer(tiny.settings(values))
    slow = Reference(trainer, values)
    expected = [slow.epoch(data) for _ in range(8)]
    found = [trainer.epoch(data) for _ in range(8)]
    for name in ("loss_rec", "loss_adv", "loss_d"):
        assert [getattr(row, name) for row in found] == pytest.approx(
            [getattr(row, name) for row in expected], rel=5e-3
        )


def test_the_last_batch_of_an_epoch_counts_by_its_images() -> None:
    """With nothing learned, the mean over 5 images in batches of 4 is that of one batch of 5."""
    data = tiny.images(IMAGES)
    still = {"train.learning_rate": 1e-30, "train.lambda": 0.0, "train.adversary.method": "none", "puzzle.hide": "none"}
    same = {"puzzle.kind": "rotation", "train.weight_decay": 0.0}
    losses = []
    for batch_size in (4, IMAGES):
        trainer = tiny.trainer(tiny.settings(still | same | {"train.batch_size": batch_size}))
        trainer.puzzler.source_KL = trainer.puzzler.source_KL[:1].expand(3, -1)
        losses.append(trainer.epoch(data).loss_rec)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_trainer_leaves_images_as_they_were() -> None:
    data = tiny.images(IMAGES)
    before = data.clone()
    tiny.train(tiny.settings(), data)
    assert torch.equal(data, before)


@examples(30)
@given(seed=st.integers(0, 1000), how=st.sampled_from(["batch_mean", "elementwise"]))
def test_feature_matching_equals_the_reference(seed: int, how: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    real, solved = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(feature_matching(real, solved, how), reference.feature_loss(real, solved, how))


def test_feature_matching_against_the_batch_mean_is_blind_to_differences_that_cancel() -> None:
    real = torch.zeros(2, 1, 1, 1)
    solved = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    assert feature_matching(real, solved, "batch_mean") == 0
    assert feature_matching(real, solved, "elementwise") == 1


def test_the_reference_losses_are_pytorchs() -> None:
    real, solved = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    expected = expected + F.binary_cross_entropy_with_logits(solved, torch.zeros_like(solved))
    torch.testing.assert_close(reference.discriminator_loss(real, solved), expected)


def test_one_cycle_warms_up_linearly_to_its_peak_and_ends_at_zero() -> None:
    assert one_cycle(0, warm_up=0.1) == pytest.approx(0.05)
    assert one_cycle(0.05, warm_up=0.1) == pytest.approx((0.05 + 1) / 2)
    assert one_cycle(0.1, warm_up=0.1) == pytest.approx(1)
    assert one_cycle(0.55, warm_up=0.1) == pytest.approx(0.5)
    assert one_cycle(1, warm_up=0.1) == pytest.approx(0, abs=1e-12)


def test_one_cycle_without_warm_up_starts_at_its_peak() -> None:
    assert one_cycle(0, warm_up=0) == 1
    assert one_cycle(0.5, warm_up=0) == pytest.approx(0.5)


def test_one_cycle_moves_with_every_batch() -> None:
    values = {
        "train.schedule": "one_cycle",
        "train.epochs": 4,
        "train.batch_size": 2,
        "train.learning_rate": 0.01,
        "train.warm_up": 0.5,
    }
    _, losses = tiny.train(tiny.settings(values), tiny.images(6))
    expected = [0.01 * one_cycle((epoch + 2 / 3) / 4, warm_up=0.5) for epoch in range(4)]
    assert [row.lr for row in losses] == pytest.approx(expected)


@examples(60)
@given(progress=st.floats(0, 1), further=st.floats(0, 1), warm_up=st.floats(0, 0.99))
def test_one_cycle_rises_then_falls(progress: float, further: float, warm_up: float) -> None:
    early, late = sorted((progress, further))
    first, second = (one_cycle(progress, warm_up=warm_up) for progress in (early, late))
    assert 0 <= first <= 1
    if late <= warm_up:
        assert first <= second
    elif early >= warm_up:
        assert first >= second


def test_padded_images_are_trained_on_with_their_padding() -> None:
    values = {"puzzle.grid": 3, "puzzle.count": 2}
    trainer = tiny.trainer(tiny.settings(values), side=17)
    assert trainer.puzzler.height == trainer.puzzler.width == padded_side(17, 3) == 18
    assert trainer.epoch(tiny.images(3, side=17)).loss_rec > 0
