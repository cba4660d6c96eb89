"""Several averages of the weights of one training, each with the bits of its own training (``train.averaging``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor

from puzzle_study.detectors.base import Run
from puzzle_study.detectors.puzzle_ae.training import Trainer


def longest(trainers: Sequence[Trainer]) -> Trainer:
    """Return the one that is trained for all."""
    return max(trainers, key=lambda trainer: trainer.settings.epochs)


def train_along(trainers: Sequence[Trainer], images_NCHW: Tensor, runs: Sequence[Run]) -> None:
    """Train the longest to the end, while the averages of the others follow its weights.

    Each run is told the state of its own trainer's training. These share all tensors but the averages.
    """
    trained = longest(trainers)
    trained.averages = [pair for trainer in trainers for pair in trainer.averages]
    for run, trainer in zip(runs, trainers, strict=True):
        if (state := run.resumed()) is None:
            continue
        if trainer is trained:
            trained.restore(state)
        elif trainer.averaged is not None:
            trainer.averaged.load_state_dict(state["averaged"])
    while not trained.finished:
        losses = trained.epoch(runs[0].images(images_NCHW, trained.epochs_done + 1))
        common = trained.state()
        for run, trainer in zip(runs, trainers, strict=True):
            run.epoch(asdict(losses), partial(_state_of, trainer, common), last=trained.finished)


def _state_of(trainer: Trainer, common: dict[str, Any]) -> dict[str, Any]:
    return common | {"averaged": None if trainer.averaged is None else trainer.averaged.state_dict()}
