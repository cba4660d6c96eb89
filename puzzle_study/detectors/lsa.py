"""Latent space autoregression: the error of an image's reconstruction, and how unlikely its code is.

Networks, losses and score are those of the authors' code, which has no training; rates and epochs come from the paper's
supplement and an author's answers (aimagelab/novelty-detection, issues 1 and 2). Differences: the score interpolates
the density linearly between the middles of bins, because the authors' steps have no gradient; each half of the score is
scaled by its spread over validation images, without a constant that does not affect the ranking; for images of
any size the decoder's levels have ⌈side / 2ⁿ⌉ pixels. Before the calibration, the two halves are added unscaled.

Shape legend: N images, C channels, H and W pixels, L numbers of a code, B bins.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from puzzle_study.config.types import MOST_EPOCHS, Costs, Images, Layer, Reading, Section, unit
from puzzle_study.detectors import epochs
from puzzle_study.detectors.base import Context, Detector, Run, Shape, Traits
from puzzle_study.detectors.devices import Precision

CODE, BINS, MASKED_LAYERS = 64, 100, 4
MOST_WIDTH = 256
LEAST_LOG = math.log(torch.finfo(torch.float64).eps)
"""The authors' lower bound of a probability."""


@dataclass(frozen=True)
class Levels:
    """Channels of a network: of a first convolution, if any, of each halving, of each doubling; dense units."""

    stem: int | None
    down: tuple[int, ...]
    up: tuple[int, ...]
    dense: int


NETWORKS: Mapping[str, Levels] = {
    "small": Levels(None, (32, 64), (32, 16), 64),
    "large": Levels(32, (64, 128, 256), (128, 64, 32), 256),
}
"""The paper's networks for MNIST and for CIFAR-10."""


class Model(Section):
    """The autoencoder and the density of its codes."""

    network: Literal["small", "large"] = Field(
        "small", description="`small`: two halvings, 32 and 64 channels; `large`: three, 64 to 256."
    )
    width: int = Field(
        32,
        ge=1,
        le=MOST_WIDTH,
        json_schema_extra=unit("channels"),
        description="Channels of the density's masked layers, for each number of the code.",
    )


class Train(epochs.Train):
    """The training."""

    epochs: int = Field(
        200, ge=0, le=MOST_EPOCHS, json_schema_extra=unit("epochs"), description="Passes over the images."
    )
    batch_size: int = Field(256, ge=2, le=4096, json_schema_extra=unit("images"), description="Images in a step.")
    learning_rate: float = Field(1e-4, gt=0, le=1, json_schema_extra=unit("–"), description="Adam's learning rate.")
    lambda_: float = Field(
        1.0, ge=0, le=100, alias="lambda", json_schema_extra=unit("–"), description="λ, weight of the code's density."
    )


LARGE_NETWORK: Layer = {"model": {"network": "large"}}
FEW_IMAGES: Layer = {"train": {"batch_size": 32}}
DIGITS: Layer = {"model": {"width": 4}, "train": {"epochs": 40, "batch_size": 32, "learning_rate": 1e-3}}
"""For few, small images: the same under both presets."""
FAST_FOR_FEW: Layer = {"model": {"network": "small"}, "train": {"epochs": 100, "batch_size": 16}}


class LSASettings(epochs.TrainedSettings):
    """The paper's settings for MNIST, Fashion-MNIST and digits; on all other data sets its network for CIFAR-10."""

    DATASETS: ClassVar[dict[str, Layer]] = {
        "digits": DIGITS,
        "cifar10": LARGE_NETWORK,
        "coil100": LARGE_NETWORK | FEW_IMAGES,
        "mvtec": LARGE_NETWORK | FEW_IMAGES,
        "head_ct": LARGE_NETWORK | FEW_IMAGES,
        "brain_mri": LARGE_NETWORK | FEW_IMAGES,
        "folder": LARGE_NETWORK | FEW_IMAGES | {"preset": "fast"},
    }
    PRESETS: ClassVar[dict[str, Layer]] = {
        "paper": {},
        "fast": {"model": {"width": 4}, "train": {"epochs": 12, "batch_size": 64, "learning_rate": 1e-3}},
    }
    PRESETS_BY_DATASET: ClassVar[dict[str, dict[str, Layer]]] = {
        "fast": {
            "digits": DIGITS,
            **dict.fromkeys(("coil100", "mvtec", "head_ct", "brain_mri", "folder"), FAST_FOR_FEW),
        }
    }
    ALONG: ClassVar[tuple[str, ...]] = ("train.epochs",)
    BUDGET: ClassVar[tuple[str, ...]] = ("train.epochs", "model.width")
    LARGE: ClassVar[tuple[str, ...]] = ("train.batch_size", "model.network", "model.width")
    SMALL: ClassVar[Layer] = {
        "model": {"width": 1},
        "train": {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3},
    }

    model: Model = Field(Model(), description="The networks.")
    train: Train = Field(Train(), description="The training.")

    def costs(self, images: Images) -> Costs:
        """Return a trial's costs, from the networks' multiply-adds."""
        levels, width = NETWORKS[self.model.network], self.model.width
        density = float(CODE**2 * width * ((MASKED_LAYERS - 1) * width + BINS))
        # Each side of the network has a 3×3 convolution at each level, and a 5×5 one in each doubling.
        pairs = itertools.pairwise((*levels.down, *levels.up))
        convolve = sum(45 * before * after for before, after in pairs) * images.pixels / 4 ** len(levels.down)
        return Costs(fit=0.0, epoch=3 * (convolve + density), score=convolve + density)


class Residual(nn.Module):
    """Two convolutions with a shortcut; halves the image, doubles it, or keeps its size and channels.

    Args:
        before: input channels.
        after: output channels.
        size: of the output images, if they are doubled; otherwise "half" or "same".
    """

    def __init__(self, before: int, after: int, size: tuple[int, int] | Literal["half", "same"]) -> None:
        super().__init__()
        self.short: nn.Module
        if isinstance(size, tuple):
            more = (1 - size[0] % 2, 1 - size[1] % 2)
            self.first: nn.Module = nn.ConvTranspose2d(before, after, 5, 2, 2, more, bias=False)
            self.short = nn.Sequential(
                nn.ConvTranspose2d(before, after, 1, 2, 0, more, bias=False), nn.BatchNorm2d(after)
            )
        elif size == "half":
            self.first = nn.Conv2d(before, after, 3, 2, 1, bias=False)
            self.short = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))
        else:
            self.first = nn.Conv2d(before, after, 3, 1, 1, bias=False)
            self.short = nn.Identity()
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the sum of both paths."""
        long_NCHW = functional.leaky_relu(self.first_norm(self.first(x_NCHW)))
        return functional.leaky_relu(self.second_norm(self.second(long_NCHW)) + self.short(x_NCHW))


class Autoencoder(nn.Sequential):
    """From images to codes in [0, 1] and back; the first part alone gives the codes."""

    def __init__(self, network: str, shape: Shape) -> None:
        levels = NETWORKS[network]
        super().__init__(_encoder(levels, shape), _decoder(levels, shape))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from PyTorch's stubs


def _encoder(levels: Levels, shape: Shape) -> nn.Module:
    parts: list[nn.Module] = []
    channels, sides = shape.channels, (shape.height, shape.width)
    if levels.stem is not None:
        stem = levels.stem
        parts += [nn.Conv2d(channels, stem, 3, bias=False), nn.LeakyReLU(), Residual(stem, stem, "same")]
        channels, sides = stem, (sides[0] - 2, sides[1] - 2)
    parts += [Residual(*pair, "half") for pair in itertools.pairwise((channels, *levels.down))]
    height, width = (_halved(side, len(levels.down)) for side in sides)
    return nn.Sequential(
        *parts,
        nn.Flatten(),
        nn.Linear(levels.down[-1] * height * width, levels.dense),
        nn.BatchNorm1d(levels.dense),
        nn.LeakyReLU(),
        nn.Linear(levels.dense, CODE),
        nn.Sigmoid(),
    )


def _decoder(levels: Levels, shape: Shape) -> nn.Module:
    channels = (levels.down[-1], *levels.up)
    sizes = [
        (_halved(shape.height, halvings), _halved(shape.width, halvings)) for halvings in range(len(levels.up), -1, -1)
    ]
    units = channels[0] * math.prod(sizes[0])
    doublings = zip(itertools.pairwise(channels), sizes[1:], strict=True)
    parts: list[nn.Module] = [Residual(*pair, size) for pair, size in doublings]
    if levels.stem is not None:
        parts.append(Residual(channels[-1], channels[-1], "same"))
    return nn.Sequential(
        nn.Linear(CODE, levels.dense),
        nn.BatchNorm1d(levels.dense),
        nn.LeakyReLU(),
        nn.Linear(levels.dense, units),
        nn.BatchNorm1d(units),
        nn.LeakyReLU(),
        nn.Unflatten(1, (channels[0], *sizes[0])),
        *parts,
        nn.Conv2d(channels[-1], shape.channels, 1, bias=False),
    )


def _halved(side: int, times: int) -> int:
    return -(-side >> times)


class Masked(nn.Linear):
    """A layer in which each number of the code sees the numbers before it, and itself if requested."""

    mask: Tensor

    def __init__(self, before: int, after: int, *, itself: bool) -> None:
        super().__init__(CODE * before, CODE * after)
        earlier = torch.ones(CODE, CODE).tril(0 if itself else -1)
        mask = earlier.repeat_interleave(after, 0).repeat_interleave(before, 1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's numbers."""
        return functional.linear(input, self.weight * self.mask, self.bias)


class Density(nn.Sequential):
    """The distribution of each number of a code over the bins, given the numbers before it."""

    def __init__(self, width: int) -> None:
        channels = (1, *[width] * MASKED_LAYERS)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise(channels)):
            layers += [Masked(before, after, itself=number > 0), nn.LeakyReLU()]
        super().__init__(*layers, Masked(width, BINS, itself=True))

    def logarithms(self, code_NL: Tensor) -> Tensor:
        """Return the logarithms of the probabilities, [N, L, B]."""
        logit_NLB: Tensor = self(code_NL).unflatten(1, (CODE, BINS))
        return logit_NLB.log_softmax(2).clamp_min(LEAST_LOG)


class LSA(Detector):
    """An image's error is its reconstruction error plus the negative log-likelihood of its code."""

    name = "lsa"
    title = "LSA"
    source = "Abati et al. 2019"
    Settings = LSASettings
    traits = Traits(epochs=True)

    spread_2: Tensor

    def __init__(
        self, network: str, width: int, *, shape: Shape, reading: Reading, precision: Precision = "float32"
    ) -> None:
        super().__init__(shape=shape, reading=reading, precision=precision)
        self.network, self.width = network, width
        self.autoencoder, self.density = Autoencoder(network, shape), Density(width)
        self.register_buffer("spread_2", torch.ones(2))
        self.start: tuple[Train, int] | None = None

    @classmethod
    def build(cls, settings: LSASettings, context: Context) -> Self:
        """Return an untrained detector."""
        with epochs.seeded(context.seed):
            model = settings.model
            detector = cls(model.network, model.width, shape=context.shape, reading=settings.reading)
        detector.start = settings.train, context.seed
        return detector.to(context.device)

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Train autoencoder and density together."""
        if self.start is None:
            raise ValueError("a loaded detector cannot be trained further")
        train, seed = self.start
        optimiser = torch.optim.Adam(self.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)

        def before(done: int) -> None:
            self.train()

        def step(x_NCHW: Tensor) -> dict[str, Tensor]:
            code_NL = self.autoencoder[0](x_NCHW)
            bin_NL1 = (code_NL * BINS).long().clamp_max(BINS - 1)[..., None]
            loss_nll = -self.density.logarithms(code_NL).gather(2, bin_NL1).sum((1, 2)).mean()
            loss_rec = self._squares(x_NCHW, code_NL).mean()
            optimiser.zero_grad()
            (loss_rec + train.lambda_ * loss_nll).backward()
            optimiser.step()
            return {"loss_rec": loss_rec.detach(), "loss_nll": loss_nll.detach()}

        epochs.train(
            # Batch norm needs two images.
            images_NCHW if len(images_NCHW) > 1 else images_NCHW.expand(2, -1, -1, -1),
            run,
            step,
            epochs=train.epochs,
            batch_size=train.batch_size,
            parts={"detector": self, "optimiser": optimiser},
            generator=torch.Generator(self.device).manual_seed(seed),
            before=before,
        )
        self.start = None

    def errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the sums of both halves, each in units of its spread over validation images, [N, 1]."""
        return (self._halves(x_NCHW) / self.spread_2).sum(1, keepdim=True)

    @torch.no_grad()
    def calibrate(self, validation_NCHW: Tensor) -> None:
        """Measure the spread of both halves over the validation images, then calibrate like every detector."""
        self.eval()
        parts: list[Tensor] = []
        self.by_chunks(validation_NCHW, lambda part, x_NCHW: parts.append(self._halves(x_NCHW)))
        halves_V2 = torch.cat(parts)
        spread_2 = halves_V2.amax(0) - halves_V2.amin(0)
        self.spread_2 = torch.where(spread_2 > 0, spread_2, torch.ones_like(spread_2))
        super().calibrate(validation_NCHW)

    def describe(self) -> dict[str, Any]:
        """Return the sizes of the networks."""
        return {"network": self.network, "width": self.width}

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with the described networks."""
        width = int(described["width"])
        if not 1 <= width <= MOST_WIDTH:
            raise ValueError(f"width must be 1 to {MOST_WIDTH}, not {width}")
        return cls(str(described["network"]), width, shape=shape, reading=reading, precision=precision)

    def _halves(self, x_NCHW: Tensor) -> Tensor:
        """Return squared error and negative log-likelihood of images, [N, 2]."""
        code_NL = self.autoencoder[0](x_NCHW)
        place_NL1 = (code_NL * BINS - 0.5).clamp(0, BINS - 1)[..., None]
        below_NL1 = place_NL1.detach().long().clamp_max(BINS - 2)
        log_NLB, share_NL1 = self.density.logarithms(code_NL), place_NL1 - below_NL1
        log_NL1 = log_NLB.gather(2, below_NL1).lerp(log_NLB.gather(2, below_NL1 + 1), share_NL1)
        return torch.stack((self._squares(x_NCHW, code_NL), -log_NL1.sum((1, 2))), 1)

    def _squares(self, x_NCHW: Tensor, code_NL: Tensor) -> Tensor:
        squares_N: Tensor = (self.autoencoder[1](code_NL) - x_NCHW).square().sum((1, 2, 3))
        return squares_N
