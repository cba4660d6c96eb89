"""OCGAN: an autoencoder trained so that all codes, not only those of training images, give normal images.

Networks, losses and schedule are those of the authors' code (MXNet). Differences: images keep their number of channels
(theirs are always in colour); codes are bounded by tanh, as in the paper, instead of a leaky rectifier; batch norms
average their statistics over more batches; scoring adds no noise, so that the same image always has the same score.
Of the authors' four scores, this is the reconstruction error.

Shape legend: N images, C channels, H and W pixels, L numbers of a code, S pixels a side of what the networks see.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from puzzle_study.config.types import MOST_EPOCHS, Costs, Images, Layer, Reading, Section, unit
from puzzle_study.detectors import epochs
from puzzle_study.detectors.base import Context, Detector, Run, Shape, Traits
from puzzle_study.detectors.devices import Precision

KERNEL, SLOPE, SPREAD = 5, 0.2, 0.02
LEAST_DEPTH, MOST_DEPTH = 2, 5
MOST_CHANNELS = MOST_LATENT = 512
LATENT_WEIGHT, MINING_STEP, DROPPED, BETAS = 10.0, 2.0, 0.5, (0.5, 0.999)
DENSE = (128, 64, 32, 16)
"""Units of the code discriminator."""


class Model(Section):
    """The autoencoder and its adversaries."""

    depth: int = Field(
        3,
        ge=LEAST_DEPTH,
        le=MOST_DEPTH,
        json_schema_extra=unit("levels"),
        description="Halvings before the code; images are resized to 2^(depth + 3) − 3 pixels: 29, 61, 125, 253.",
    )
    base_channels: int = Field(
        64, ge=1, le=MOST_CHANNELS, json_schema_extra=unit("channels"), description="Channels of the first level."
    )
    discriminator_channels: int = Field(
        12,
        ge=1,
        le=MOST_CHANNELS,
        json_schema_extra=unit("channels"),
        description="Channels of the image discriminator's first level.",
    )
    latent: int = Field(16, ge=1, le=MOST_LATENT, json_schema_extra=unit("numbers"), description="Length of a code.")


class Train(epochs.Train):
    """The training."""

    epochs: int = Field(
        200, ge=0, le=MOST_EPOCHS, json_schema_extra=unit("epochs"), description="Passes over the images."
    )
    mining_after: int = Field(
        150,
        ge=0,
        json_schema_extra=unit("epochs"),
        description="Epochs before codes are moved to where the images are worst.",
    )
    batch_size: int = Field(512, ge=1, le=4096, json_schema_extra=unit("images"), description="Images in a step.")
    learning_rate: float = Field(
        2e-4, gt=0, le=1, json_schema_extra=unit("–"), description="Adam's learning rate (β₁ = 0.5), for all networks."
    )
    lambda_: float = Field(
        10.0,
        ge=0,
        le=1000,
        alias="lambda",
        json_schema_extra=unit("–"),
        description="λ, weight of half the mean squared error of the reconstruction.",
    )
    noise: float = Field(
        0.2,
        ge=0,
        le=2,
        json_schema_extra=unit("half the range of pixels"),
        description="Standard deviation of the noise on the images to reconstruct.",
    )


FEW_IMAGES: Layer = {"train": {"batch_size": 32}}
DIGITS: Layer = {
    "model": {"depth": 2, "base_channels": 8, "discriminator_channels": 4},
    "train": {"epochs": 60, "mining_after": 45, "batch_size": 32, "learning_rate": 1e-3},
}
"""For few, small images: the same under both presets."""
FAST_FOR_FEW: Layer = {"train": {"epochs": 200, "mining_after": 150, "batch_size": 16}}


class OCGANSettings(epochs.TrainedSettings):
    """The authors' settings for MNIST, on all data sets."""

    DATASETS: ClassVar[dict[str, Layer]] = {
        "digits": DIGITS,
        "coil100": FEW_IMAGES,
        "mvtec": FEW_IMAGES,
        "head_ct": FEW_IMAGES,
        "brain_mri": FEW_IMAGES,
        "folder": FEW_IMAGES | {"preset": "fast"},
    }
    PRESETS: ClassVar[dict[str, Layer]] = {
        "paper": {},
        "fast": {
            "model": {"depth": 2, "base_channels": 16},
            "train": {"epochs": 20, "mining_after": 15, "batch_size": 64, "learning_rate": 5e-4},
        },
    }
    PRESETS_BY_DATASET: ClassVar[dict[str, dict[str, Layer]]] = {
        "fast": {
            "digits": DIGITS,
            **dict.fromkeys(("coil100", "mvtec", "head_ct", "brain_mri", "folder"), FAST_FOR_FEW),
        }
    }
    ALONG: ClassVar[tuple[str, ...]] = ("train.epochs",)
    BUDGET: ClassVar[tuple[str, ...]] = ("train.epochs", "model.base_channels")
    LARGE: ClassVar[tuple[str, ...]] = ("train.batch_size", "model.depth", "model.base_channels")
    SMALL: ClassVar[Layer] = {
        "model": {"depth": 2, "base_channels": 8, "discriminator_channels": 4},
        "train": {"epochs": 4, "mining_after": 3, "batch_size": 8, "learning_rate": 2e-3, "lambda": 100.0},
    }

    model: Model = Field(Model(), description="The networks.")
    train: Train = Field(Train(), description="The training.")

    def costs(self, images: Images) -> Costs:
        """Return a trial's costs, from the convolutions' multiply-adds."""
        depth, base = self.model.depth, self.model.base_channels
        # Each level has twice the channels and a quarter of the pixels of the one before, so the same work.
        encode = (KERNEL * base) ** 2 / 8 * _side(depth) ** 2 / 4 * (depth - 1)
        # Two encodings and four decodings forward, most of them backward, and a classifier as large as the encoder.
        return Costs(fit=0.0, epoch=20 * encode, score=2 * encode)


def _side(depth: int) -> int:
    """Return the pixels a side that 5×5 convolutions with stride 2 reduce to one, without padding."""
    return int(2 ** (depth + 3) - 3)


def _down(channels: tuple[int, ...], *, last_bias: bool) -> list[nn.Module]:
    """Return convolutions that halve, with a rectifier except the last, and batch norm except the outer ones."""
    pairs = list(itertools.pairwise(channels))
    parts: list[nn.Module] = [nn.Conv2d(*pairs[0], KERNEL, 2), nn.LeakyReLU(SLOPE)]
    for before, after in pairs[1:-1]:
        parts += [nn.Conv2d(before, after, KERNEL, 2, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE)]
    return [*parts, nn.Conv2d(*pairs[-1], KERNEL, 2, bias=last_bias)]


class Decoder(nn.Module):
    """From codes to images in [−1, 1]."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        *inner, last = itertools.pairwise(reversed(channels))
        self.inner = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(*pair, KERNEL, 2, bias=False), nn.BatchNorm2d(pair[1])) for pair in inner
        )
        self.last = nn.ConvTranspose2d(*last, KERNEL, 2)

    def forward(self, code_NL: Tensor, dropping: torch.Generator | None = None) -> Tensor:
        """Return the images, [N, C, S, S]; with a generator, half of the numbers before the last level are dropped."""
        h_NCHW = code_NL[..., None, None]
        for level in self.inner:
            h_NCHW = level(h_NCHW).relu()
        if dropping is not None:
            kept_NCHW = torch.empty_like(h_NCHW).bernoulli_(1 - DROPPED, generator=dropping)
            h_NCHW = h_NCHW * kept_NCHW / (1 - DROPPED)
        images_NCSS: Tensor = self.last(h_NCHW).tanh()
        return images_NCSS


class Adversaries(nn.Module):
    """Parts for training only: discriminators of images and of codes, and the classifier that finds bad images."""

    def __init__(self, model: Model, channels: int) -> None:
        super().__init__()

        def judge(base: int) -> nn.Sequential:
            levels = (channels, *(base * 2**level for level in range(model.depth)), 1)
            return nn.Sequential(*_down(levels, last_bias=True), nn.Flatten(0))

        dense = [
            part
            for before, after in itertools.pairwise((model.latent, *DENSE))
            for part in (nn.Linear(before, after), nn.ReLU())
        ]
        self.images, self.classifier = judge(model.discriminator_channels), judge(model.base_channels)
        # The loss takes these as logits, so no code can be called very wrong.
        self.codes = nn.Sequential(*dense[:-1], nn.Sigmoid())


@dataclass(frozen=True)
class Start:
    """The parts that only the training needs."""

    train: Train
    adversaries: Adversaries
    generator: torch.Generator


class OCGAN(Detector):
    """An image's error is the mean squared error of its reconstruction."""

    name = "ocgan"
    title = "OCGAN"
    source = "Perera et al. 2019"
    Settings = OCGANSettings
    traits = Traits(epochs=True, maps=True)

    def __init__(self, model: Model, *, shape: Shape, reading: Reading, precision: Precision = "float32") -> None:
        super().__init__(shape=shape, reading=reading, precision=precision)
        self.model = model
        channels = (shape.channels, *(model.base_channels * 2**level for level in range(model.depth)), model.latent)
        self.encoder = nn.Sequential(*_down(channels, last_bias=False), nn.Flatten(), nn.Tanh())
        self.decoder = Decoder(channels)
        self.start: Start | None = None

    @classmethod
    def build(cls, settings: OCGANSettings, context: Context) -> Self:
        """Return an untrained detector."""
        with epochs.seeded(context.seed):
            detector = cls(settings.model, shape=context.shape, reading=settings.reading)
            adversaries = Adversaries(settings.model, context.shape.channels)
            for network in (detector, adversaries):
                network.apply(_initialise)
        generator = torch.Generator(context.device).manual_seed(context.seed)
        detector.start = Start(settings.train, adversaries.to(context.device), generator)
        return detector.to(context.device)

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Train the autoencoder against its adversaries."""
        if self.start is None:
            raise ValueError("a loaded detector cannot be trained further")
        train, adversaries, generator = self.start.train, self.start.adversaries, self.start.generator
        own = list(self.parameters())
        optimiser = torch.optim.Adam(own, train.learning_rate, BETAS, weight_decay=train.weight_decay)
        other = torch.optim.Adam(adversaries.parameters(), train.learning_rate, BETAS)
        mining = False

        def before(done: int) -> None:
            nonlocal mining
            mining = done >= train.mining_after
            self.train()

        def uniform(count: int) -> Tensor:
            return 2 * torch.rand(count, self.model.latent, generator=generator, device=self.device) - 1

        def step(x_NCHW: Tensor) -> dict[str, Tensor]:
            x_NCSS = self._resized(x_NCHW)
            drawn_NCSS = torch.empty_like(x_NCSS).normal_(generator=generator)
            noisy_NCSS = x_NCSS + train.noise * drawn_NCSS
            start_NL = uniform(len(x_NCSS))
            if mining:
                start_NL = self._mined(start_NL, adversaries.classifier, generator)
            with torch.no_grad():
                code_NL = self.encoder(noisy_NCSS)
                again_NCSS = self.decoder(code_NL, generator)
                made_NCSS = self.decoder(uniform(len(x_NCSS)), generator)
            loss_d = (
                _told_apart(adversaries.images, x_NCSS, made_NCSS)
                + _told_apart(adversaries.codes, uniform(len(x_NCSS)), code_NL)
                + _told_apart(adversaries.classifier, again_NCSS, made_NCSS)
            )
            other.zero_grad()
            loss_d.backward()
            other.step()

            code_NL = self.encoder(noisy_NCSS)
            loss_rec = (self.decoder(code_NL, generator) - x_NCSS).square().mean()
            loss_latent = _real(adversaries.codes(code_NL))
            loss_adv = _real(adversaries.images(self.decoder(start_NL.tanh(), generator)))
            optimiser.zero_grad()
            (train.lambda_ * loss_rec / 2 + LATENT_WEIGHT * loss_latent + loss_adv).backward(inputs=own)
            optimiser.step()
            losses = {"loss_rec": loss_rec, "loss_latent": loss_latent, "loss_adv": loss_adv, "loss_d": loss_d}
            return {name: loss.detach() for name, loss in losses.items()}

        epochs.train(
            images_NCHW,
            run,
            step,
            epochs=train.epochs,
            batch_size=train.batch_size,
            parts={"detector": self, "adversaries": adversaries, "optimiser": optimiser, "other": other},
            generator=generator,
            before=before,
        )
        self.start = None

    def _mined(self, start_NL: Tensor, classifier: nn.Module, generator: torch.Generator) -> Tensor:
        """Return codes, before tanh, one step towards images that the classifier calls generated."""
        leaf_NL = start_NL.requires_grad_()
        loss = functional.softplus(classifier(self.decoder(leaf_NL.tanh(), generator))).sum()
        (slope_NL,) = torch.autograd.grad(loss, leaf_NL)
        return (leaf_NL - MINING_STEP * slope_NL).detach()

    def errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the mean squared errors, [N, 1]."""
        return self._squares(x_NCHW).mean((1, 2, 3))[:, None]

    def maps(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the error matrix and the squared errors of pixels, resized to the image."""
        maps: list[Tensor] = []
        size = (self.shape.height, self.shape.width)

        def work(part: slice, x_NCHW: Tensor) -> None:
            square_N1SS = self._squares(x_NCHW).mean(1, keepdim=True)
            maps.append(functional.interpolate(square_N1SS, size, mode="bilinear")[:, 0])

        error_NK = self.error_matrix(images_NCHW)
        with torch.no_grad():
            self.by_chunks(images_NCHW, work)
        return error_NK, torch.cat(maps) / self.validation_NK.mean()

    def describe(self) -> dict[str, Any]:
        """Return the sizes of the networks."""
        return self.model.model_dump()

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with the described networks, within the settings' bounds."""
        return cls(Model.model_validate(dict(described)), shape=shape, reading=reading, precision=precision)

    def _resized(self, x_NCHW: Tensor) -> Tensor:
        """Return images as the networks see them, in [−1, 1]."""
        side = _side(self.model.depth)
        shrinks = side < max(self.shape.height, self.shape.width)
        x_NCSS = functional.interpolate(x_NCHW, (side, side), mode="bilinear", antialias=shrinks)
        return 2 * x_NCSS - 1

    def _squares(self, x_NCHW: Tensor) -> Tensor:
        x_NCSS = self._resized(x_NCHW)
        square_NCSS: Tensor = (self.decoder(self.encoder(x_NCSS)) - x_NCSS).square()
        return square_NCSS


def _real(logit: Tensor) -> Tensor:
    """Return the cross-entropy of calling all real."""
    return functional.softplus(-logit).mean()


def _told_apart(judge: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """Return a judge's cross-entropy for calling real ones real and the others generated."""
    return (_real(judge(real)) + functional.softplus(judge(made)).mean()) / 2


def _initialise(layer: nn.Module) -> None:
    """Draw weights like the authors."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(layer.weight, 0, SPREAD)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1, SPREAD)
