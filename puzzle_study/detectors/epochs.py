"""Training in epochs for any detector: shuffled batches, mean losses, resumable after every epoch.

Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from puzzle_study.config.types import MOST_EPOCHS, DetectorSettings, Section, unit
from puzzle_study.detectors.base import Run, TrainingDiverged, to_float

Step = Callable[[Tensor], Mapping[str, Tensor]]


class Train(Section):
    """The training; each detector derives a section with its paper's numbers."""

    epochs: int = Field(
        100, ge=0, le=MOST_EPOCHS, json_schema_extra=unit("epochs"), description="Passes over the images."
    )
    batch_size: int = Field(128, ge=1, le=4096, json_schema_extra=unit("images"), description="Images in a step.")
    learning_rate: float = Field(1e-3, gt=0, le=1, json_schema_extra=unit("–"), description="Adam's learning rate.")
    weight_decay: float = Field(0.0, ge=0, le=1, json_schema_extra=unit("–"), description="L2 penalty on the weights.")


class TrainedSettings(DetectorSettings):
    """Common settings of all detectors trained by :func:`train`."""

    BUDGET: ClassVar[tuple[str, ...]] = ("train.epochs",)
    LARGE: ClassVar[tuple[str, ...]] = ("train.batch_size",)

    preset: Literal["paper", "fast"] = Field(
        "paper", description="Defaults: `paper`, the detector's own paper; `fast`, minutes on a CPU."
    )
    train: Train = Field(Train(), description="The training.")

    @property
    def epochs_wanted(self) -> int:
        """Epochs at most."""
        return self.train.epochs


class Stateful(Protocol):
    """A network, optimiser or schedule with a state that a training resumes from."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Load a state."""


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Build networks on the CPU from a seed alone, without changing the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def train(
    images_NCHW: Tensor,
    run: Run,
    step: Step,
    *,
    epochs: int,
    batch_size: int,
    parts: Mapping[str, Stateful],
    generator: torch.Generator,
    before: Callable[[int], None] | None = None,
) -> None:
    """Train epoch by epoch; an interrupted run continues after its last epoch, with the same bits.

    Args:
        images_NCHW: uint8, all normal, on the device of the networks.
        run: gives the images of each epoch, and receives it.
        step: takes images in [0, 1], steps the optimisers and returns the mean losses of the batch, by name, detached
            and on the device.
        epochs: number of epochs.
        batch_size: images in a step. The last batch of an epoch is smaller; a single remaining image joins the batch
            before it, because batch norm cannot work with one image.
        parts: everything with a state, by name.
        generator: for the order and for random draws in ``step``, on the device.
        before: called before each epoch with the number of epochs done; it puts networks in training mode, changes
            learning rates, or begins another phase.

    Raises:
        TrainingDiverged: a mean loss is not finite.
    """
    done = 0
    if (state := run.resumed()) is not None:
        done = state["done"]
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        generator.set_state(state["generator"].cpu())
    for epoch in range(done + 1, epochs + 1):
        if before is not None:
            before(epoch - 1)
        losses = _epoch(run.images(images_NCHW, epoch), step, batch_size, generator)
        if not all(map(math.isfinite, losses.values())):
            listed = ", ".join(f"{name.removeprefix('loss_')} {loss:.3g}" for name, loss in losses.items())
            raise TrainingDiverged(f"the loss is not finite after epoch {epoch} ({listed}); lower train.learning_rate")
        run.epoch({"epoch": epoch} | losses, partial(_state, epoch, parts, generator), last=epoch == epochs)


def _epoch(images_NCHW: Tensor, step: Step, batch_size: int, generator: torch.Generator) -> dict[str, float]:
    """Train one epoch; return its mean losses, read from the device once."""
    order = torch.randperm(len(images_NCHW), generator=generator, device=images_NCHW.device)
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = torch.cat((batches[-1], last))
    sums: dict[str, Tensor] = {}
    for index in batches:
        for name, loss in step(to_float(images_NCHW[index])).items():
            sums[name] = sums.get(name, torch.zeros_like(loss)) + loss * len(index)
    return dict(zip(sums, (torch.stack(list(sums.values())) / len(order)).tolist(), strict=True))


def _state(done: int, parts: Mapping[str, Stateful], generator: torch.Generator) -> dict[str, Any]:
    """Return all that the next epoch depends on."""
    states = {name: part.state_dict() for name, part in parts.items()}
    return {"done": done, "parts": states, "generator": generator.get_state()}
