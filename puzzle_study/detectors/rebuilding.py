"""Detectors that reconstruct an image and measure the difference.

Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Generator, Tensor, nn
from typing_extensions import Self

from puzzle_study.config.types import Reading, Section
from puzzle_study.detectors import scoring
from puzzle_study.detectors.base import Context, Detector, Run, Shape, Traits
from puzzle_study.detectors.devices import Precision, whole_float32
from puzzle_study.detectors.epochs import seeded, train


class Rebuilding(Detector):
    """A detector whose error is the mean of a map of differences between an image and its reconstruction.

    Its settings have the sections ``train`` and ``model``; the network follows from the latter and the images.

    Attributes:
        Model: the class of the section ``model``.
        network: takes images and returns their reconstructions, both [N, C, H, W].
    """

    Model: ClassVar[type[Section]]
    traits = Traits(epochs=True, maps=True)

    def __init__(self, model: Any, *, shape: Shape, reading: Reading, precision: Precision = "float32") -> None:
        super().__init__(shape=shape, reading=reading, precision=precision)
        self.model = model
        self.network = self.network_for(model, shape)
        self._training: tuple[Any, int] | None = None

    @classmethod
    @abstractmethod
    def network_for(cls, model: Any, shape: Shape) -> nn.Module:
        """Return the untrained network of the section ``model``."""

    @classmethod
    def build(cls, settings: Any, context: Context) -> Self:
        """Return a detector with its initial weights."""
        with seeded(context.seed):
            detector = cls(settings.model, shape=context.shape, reading=settings.reading)
        detector._training = settings, context.seed
        return detector.placed(context.device)

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Train the network with Adam on the sum of :meth:`losses`."""
        if self._training is None:
            raise RuntimeError("a detector is fitted once, after build")
        (settings, seed), self._training = self._training, None
        how = settings.train
        adam = torch.optim.Adam(
            self.network.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay, fused=True
        )
        generator = Generator(self.device).manual_seed(seed)

        def step(x_NCHW: Tensor) -> dict[str, Tensor]:
            with whole_float32(self.device):
                losses = self.losses(x_NCHW, settings, generator)
                adam.zero_grad()
                torch.stack(list(losses.values())).sum().backward()
            adam.step()
            return {name: loss.detach() for name, loss in losses.items()}

        train(
            images_NCHW,
            run,
            step,
            epochs=how.epochs,
            batch_size=how.batch_size,
            parts={"network": self.network, "adam": adam},
            generator=generator,
        )

    def losses(self, x_NCHW: Tensor, settings: Any, generator: Generator) -> dict[str, Tensor]:
        """Return a batch's weighted losses by name; by default the mean of the maps."""
        return {"loss_rec": self.differences(x_NCHW, self.network(x_NCHW)).mean()}

    def differences(self, x_NCHW: Tensor, rebuilt_NCHW: Tensor) -> Tensor:
        """Return the map of differences, at least 0, [N, H, W]; the mean square over the channels."""
        return (rebuilt_NCHW - x_NCHW).square().mean(1)

    def errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the means of the maps, [N, 1]."""
        return self._maps(x_NCHW).mean((1, 2))[:, None]

    @torch.no_grad()
    def maps(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the error matrix and the maps of differences, in units of the mean validation error."""
        self.eval()
        map_NHW = torch.empty(len(images_NCHW), self.shape.height, self.shape.width, device=self.device)

        def work(part: slice, x_NCHW: Tensor) -> None:
            map_NHW[part] = self._maps(x_NCHW)

        self.by_chunks(images_NCHW, work)
        return map_NHW.mean((1, 2))[:, None], map_NHW / scoring.normalisation(self.validation_NK, self.reading.error)

    def _maps(self, x_NCHW: Tensor) -> Tensor:
        with whole_float32(self.device):
            return self.differences(x_NCHW, cast(Tensor, self.network(x_NCHW)))

    def describe(self) -> dict[str, Any]:
        """Return the section ``model``."""
        described: dict[str, Any] = self.model.model_dump()
        return described

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with the described network, within the section's ranges."""
        return cls(cls.Model.model_validate(dict(described)), shape=shape, reading=reading, precision=precision)
