"""The imitation itself: six bugs that only a GPU shows are planted, and each is seen. And the budget of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import swa_utils

from puzzle_study.detectors.base import Context, Shape
from puzzle_study.detectors.puzzle_ae.training import Trainer

from ..core import tiny
from .imitation import CUDA, Counted, imitated

IMAGES, BATCH = 10, 4
SETTINGS = {"train.averaging": 0.9, "train.adversary.alpha": 0.05, "train.batch_size": BATCH}
Plant = Callable[[Trainer, pytest.MonkeyPatch], None]


def epoch(plant: Plant | None = None, precision: Any = "float32") -> Counted:
    """Train an epoch on the imitated GPU, perhaps with a bug, and return what was counted."""
    with imitated() as seen, pytest.MonkeyPatch.context() as patch:
        settings = tiny.own(tiny.settings(SETTINGS))
        trainer = Trainer(settings, Context(Shape(1, 16, 16), 0, CUDA, precision, "digits", "3"))
        images = tiny.images(IMAGES).to(CUDA)
        if plant is not None:
            plant(trainer, patch)
        with seen.count() as counted:
            trainer.epoch(images)
    return counted


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_a_training_waits_once_an_epoch_and_never_in_a_step(precision: str) -> None:
    waits = epoch(precision=precision).waits
    assert waits.total() == 1, waits


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_weights_are_cast_together_once_a_step_and_their_gradients_too(precision: str) -> None:
    """The adversary's pass and the training's share them; only maps are cast one by one."""
    steps = -(-IMAGES // BATCH)
    kernels = epoch(precision=precision).kernels
    assert kernels["_foreach_copy_"] <= 4 * steps + 1, "each network's weights and gradients; the average begins by one"
    assert kernels["_to_copy"] <= 25 * steps, "one for each of the U-Net's 38 weights otherwise"


def forgotten_move(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    trainer.puzzler.source_KL = trainer.puzzler.source_KL.cpu()


def generator_of_the_cpu(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    trainer.generator = torch.Generator().manual_seed(0)


def index_on_the_gpu_of_a_table_on_the_cpu(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    trainer.puzzler.piece_PL = trainer.puzzler.piece_PL.cpu()


def after_each_step(what: Callable[[Trainer, Tensor], Any]) -> Plant:
    def plant(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
        original = Trainer._step

        def step(self: Trainer, x_NCHW: Tensor) -> Tensor:
            losses = original(self, x_NCHW)
            what(self, losses)
            return losses

        patch.setattr(Trainer, "_step", step)

    return plant


@pytest.mark.parametrize(
    ("plant", "error", "words"),
    [
        (forgotten_move, RuntimeError, "indices should be|same device"),
        (generator_of_the_cpu, RuntimeError, "device type for generator"),
        (index_on_the_gpu_of_a_table_on_the_cpu, RuntimeError, "indices should be"),
        (after_each_step(lambda trainer, losses: losses.numpy()), TypeError, "numpy"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_planted_bug_of_devices_is_an_error(plant: Plant, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        epoch(plant)


def read_on_the_device(trainer: Trainer, losses: Tensor) -> None:
    """As PyTorch's own update of an average does: it takes its count to the device in each step."""
    assert trainer.averaged is not None
    swa_utils.AveragedModel.update_parameters(trainer.averaged, trainer.network)


@pytest.mark.parametrize(
    "what",
    [
        lambda trainer, losses: bool(losses.isfinite().all()),
        lambda trainer, losses: losses[0].item(),
        read_on_the_device,
    ],
    ids=["a wait in the loop", "a number read each step", "a scalar that travels each step"],
)
def test_a_planted_wait_is_counted_in_each_step(what: Callable[[Trainer, Tensor], Any]) -> None:
    waits = epoch(after_each_step(what)).waits
    assert waits.total() >= 3, waits


def test_the_rules_of_the_imitation_are_a_gpus() -> None:
    with imitated() as seen:
        on_gpu, on_cpu = torch.ones(3, device="cuda"), torch.ones(3)
        index = torch.tensor([0, 2])
        assert on_gpu.device == (on_gpu * torch.tensor(2.0)).device == on_gpu[index].device == CUDA
        mixtures: tuple[Callable[[], Tensor], ...] = (
            lambda: on_gpu + on_cpu,
            lambda: on_cpu.add_(on_gpu),
            lambda: torch.cat((on_gpu, on_cpu)),
        )
        for mixed in mixtures:
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        for read in (on_gpu.tolist, on_gpu.cpu, on_gpu.nonzero, lambda: on_gpu[on_gpu > 0], on_gpu.sum().item):
            with seen.count() as counted:
                read()
            assert counted.waits.total() == 1
        with seen.count() as counted:
            on_gpu.to("cpu", non_blocking=True)
            torch.where(on_gpu > 0, on_gpu, 0)[1:].add_(1)
        assert not counted.waits
        leaf = on_cpu.clone().requires_grad_()
        (slope,) = torch.autograd.grad((leaf.to(CUDA) * 2).sum(), leaf)
        assert slope.device.type == "cpu"
    assert not torch.cuda.is_available()
