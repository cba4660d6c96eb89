"""float16: scaled losses in training, gradients of images that do not vanish, and steps that overflow."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from puzzle_study.detectors import checkpoint, files
from puzzle_study.detectors.puzzle_ae import fused, puzzles, training
from puzzle_study.detectors.puzzle_ae.networks import UNet, reconstruct
from puzzle_study.detectors.puzzle_ae.training import Trainer

from . import tiny
from .test_fused import COUNTS, Kept, images, members, written

SMOOTH: dict[str, Any] = {"model.base_channels": 4, "model.initialisation": "he", "train.epochs": 2}
FORMS: dict[str, dict[str, Any]] = {
    "paper": {},
    "without a discriminator": {"train.lambda": 0.0},
    "averaging, element by element": {"train.averaging": 0.5, "train.feature_loss": "elementwise"},
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of four have large gradients, which overflow from the ordinary scale."""
    monkeypatch.setattr(training, "FIRST_SCALE", 64.0)


@pytest.mark.parametrize("form", FORMS)
def test_losses_are_near_those_of_float32(form: str) -> None:
    settings, data = tiny.settings({**SMOOTH, **FORMS[form]}), tiny.images(12)
    exact, losses = tiny.train(settings, data)
    trained, half = tiny.train(settings, data, precision="float16")
    for one, other in zip(half, losses, strict=True):
        assert one.loss_rec == pytest.approx(other.loss_rec, rel=0.01)
        assert one.loss_adv == pytest.approx(other.loss_adv, rel=0.05)
        assert one.loss_d == pytest.approx(other.loss_d, rel=0.05)
    assert steps(trained) == steps(exact), "no step was left out"


def steps(trainer: Trainer) -> int:
    return int(trainer.optimiser.state[trainer.network.head.weight]["step"])


def weights(trainer: Trainer) -> list[Tensor]:
    assert trainer.discriminator is not None
    return [weight.detach().clone() for weight in (*trainer.network.parameters(), *trainer.discriminator.parameters())]


def overflowing(trainer: Trainer) -> Trainer:
    """Give a trainer a scale at which its gradients are infinite."""
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    return trainer


def test_a_step_whose_gradients_overflow_changes_no_weight_and_halves_the_scale() -> None:
    trainer = overflowing(tiny.trainer(tiny.settings(SMOOTH), precision="float16"))
    before = weights(trainer)
    losses = trainer.step(tiny.float_images(4))
    assert losses.isfinite().all()
    assert all(map(torch.equal, weights(trainer), before))
    assert trainer.scaler.get_scale() == 2.0**39
    while trainer.scaler.get_scale() > 2.0**10:
        trainer.step(tiny.float_images(4))
    trainer.step(tiny.float_images(4))
    assert not any(map(torch.equal, weights(trainer), before))


def test_a_resumed_training_has_the_same_bits(tmp_path: Path) -> None:
    data, settings = tiny.images(12), tiny.settings({**SMOOTH, "train.epochs": 4, "train.averaging": 0.5})
    whole = tiny.trainer(settings, precision="float16")
    whole.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**13, growth_interval=4)
    for _ in range(2):
        whole.epoch(data)
    state = checkpoint.read(written(tmp_path, whole.state()))
    resumed = tiny.trainer(settings, seed=9, precision="float16")
    resumed.restore(state)
    for _ in range(2):
        whole.epoch(data)
        resumed.epoch(data)
    assert tiny.same_state(resumed.state(), whole.state())
    assert state["scaler"]["scale"] not in (training.FIRST_SCALE, 2.0**13), "it had changed, and goes on from there"


def test_a_state_from_before_there_were_scales_is_still_read() -> None:
    trained = tiny.trainer(tiny.settings(SMOOTH), precision="bfloat16")
    state = copy.deepcopy(trained.state())
    del state["scaler"]
    again = tiny.trainer(tiny.settings(SMOOTH), seed=9, precision="bfloat16")
    again.restore(state)
    assert tiny.same_state(again.state(), trained.state())


def test_fused_trainings_have_their_own_scales_and_the_numbers_of_single_ones() -> None:
    settings, runs = members(SMOOTH, 1), [Kept() for _ in COUNTS]
    trainers = [tiny.trainer(one, seed=seed, precision="float16") for seed, one in enumerate(settings)]
    overflowing(trainers[1])
    assert fused.train_together(trainers, images(), runs, lambda _: None) == [None] * len(COUNTS)
    for seed, (trainer, kept) in enumerate(zip(trainers, runs, strict=True)):
        if seed == 1:
            assert trainer.scaler.get_scale() == 2.0**37
            assert steps(trainer) == 0
            continue
        single, losses = tiny.train(settings[seed], images()[seed], seed=seed, precision="float16")
        assert steps(trainer) == steps(single) == 3
        assert trainer.scaler.get_scale() == single.scaler.get_scale()
        assert kept.rows[0]["loss_rec"] == pytest.approx(losses[0].loss_rec, rel=1e-3)
        assert kept.rows[0]["loss_d"] == pytest.approx(losses[0].loss_d, rel=1e-2)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
def test_the_gradient_of_a_puzzle_is_float32s_whatever_its_size(size: float) -> None:
    network = tiny.trainer(tiny.settings(SMOOTH)).network
    slope_NCHW = size * torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    slope_NCHW *= torch.tensor([1.0, 1e-4, 0.0])[:, None, None, None]
    found = []
    for precision in ("float32", "float16"):
        x_NCHW = tiny.float_images(3).requires_grad_()
        reconstruct(network, x_NCHW, precision).backward(slope_NCHW)
        assert x_NCHW.grad is not None
        found.append(x_NCHW.grad)
    for exact, half in zip(*found, strict=True):
        assert (half - exact).norm() <= 0.15 * exact.norm()
    assert not found[1][2].any()


def test_a_member_with_a_small_gradient_loses_nothing_beside_one_with_a_large_one() -> None:
    networks = [tiny.trainer(tiny.settings(SMOOTH), seed=seed).network for seed in range(2)]
    x_NCHW = tiny.float_images(3).repeat(1, 2, 1, 1)
    slope_NCHW = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    slope_NCHW *= torch.tensor([1.0, 1e-7])[:, None, None]
    slopes = slope_NCHW.split(1, 1)
    alone = [gradient(*pair) for pair in zip(networks, x_NCHW.split(1, 1), slopes, strict=True)]
    exact_NCHW = torch.cat(alone, 1)
    half_NCHW = gradient(fused.widened(networks), x_NCHW, slope_NCHW, "float16")
    for member in range(2):
        assert (half_NCHW - exact_NCHW)[:, member].norm() <= 0.15 * exact_NCHW[:, member].norm()


def gradient(network: UNet, x_NCHW: Tensor, slope_NCHW: Tensor, precision: Any = "float32") -> Tensor:
    x_NCHW = x_NCHW.clone().requires_grad_()
    reconstruct(network, x_NCHW, precision).backward(slope_NCHW)
    assert x_NCHW.grad is not None
    return x_NCHW.grad


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
def test_a_saved_detector_remembers_its_precision_and_scores_as_before(precision: Any, tmp_path: Path) -> None:
    detector, data = tiny.detector(puzzles.PuzzleSet("jigsaw", 2, puzzles.all_permutations()[:5])), tiny.images(4)
    detector.calibrate(data)
    exact = detector.error_matrix(data)
    detector.precision = precision
    files.save(detector, tmp_path, {})
    loaded = files.load_detector(tmp_path, device=tiny.CPU)
    assert loaded.precision == precision
    assert torch.equal(loaded.error_matrix(data), detector.error_matrix(data))
    tolerance = {"bfloat16": 0.05, "float16": 0.01, "tf32": 0}[precision]
    torch.testing.assert_close(loaded.error_matrix(data), exact, rtol=tolerance, atol=0)
