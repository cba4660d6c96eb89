"""A detector of another package: the distance to the mean image. docs/extending.md explains it line by line."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from puzzle_study.config import DetectorSettings, Reading
from puzzle_study.detectors.base import Context, Detector, Run, Shape, Traits
from puzzle_study.detectors.devices import Precision


class MeanImageSettings(DetectorSettings):
    """How the distance to the mean image is measured."""

    power: float = Field(2.0, ge=1, le=4, description="Exponent of the differences.")
    epochs: int = Field(2, ge=0, le=100, description="Passes over the images; each halves the distance to their mean.")

    @property
    def epochs_wanted(self) -> int:
        """Epochs at most."""
        return self.epochs


class MeanImage(Detector):
    """The error of an image is its distance to the mean of the training images, which is approached epoch by epoch."""

    name = "mean_image"
    title = "mean image"
    source = "an example"
    Settings = MeanImageSettings
    traits = Traits(epochs=True, maps=True)

    mean_CHW: Tensor

    def __init__(self, power: float, *, shape: Shape, reading: Reading) -> None:
        super().__init__(shape=shape, reading=reading)
        self.power, self.epochs = power, 0
        self.register_buffer("mean_CHW", torch.zeros(shape.channels, shape.height, shape.width))

    @classmethod
    def build(cls, settings: MeanImageSettings, context: Context) -> MeanImage:
        detector = cls(settings.power, shape=context.shape, reading=settings.reading).to(context.device)
        detector.epochs = settings.epochs
        return detector

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        done = 0
        if (state := run.resumed()) is not None:
            done, self.mean_CHW = state["done"], state["mean_CHW"]
        for epoch in range(done + 1, self.epochs + 1):
            target_CHW = run.images(images_NCHW, epoch).float().mean(0) / 255
            self.mean_CHW = (self.mean_CHW + target_CHW) / 2
            row = {"epoch": epoch, "loss": float((target_CHW - self.mean_CHW).square().mean())}
            run.epoch(row, partial(dict, done=epoch, mean_CHW=self.mean_CHW), last=epoch == self.epochs)

    def errors(self, x_NCHW: Tensor) -> Tensor:
        return self._differences(x_NCHW).mean((1, 2, 3))[:, None]

    def maps(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        maps: list[Tensor] = []
        self.by_chunks(images_NCHW, lambda part, x_NCHW: maps.append(self._differences(x_NCHW).mean(1)))
        return self.error_matrix(images_NCHW), torch.cat(maps) / self.validation_NK.mean()

    def _differences(self, x_NCHW: Tensor) -> Tensor:
        difference: Tensor = (x_NCHW - self.mean_CHW).abs() ** self.power
        return difference

    def describe(self) -> dict[str, Any]:
        return {"power": self.power}

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> MeanImage:
        return cls(float(described["power"]), shape=shape, reading=reading)
