"""Deep SVDD: the distance of an image's code to a centre to which the codes of normal images were pulled.

Networks, losses and schedules are those of the authors' code (objective `one-class`), with two exceptions. Our
decoder, which is discarded after the pretraining, grows to ⌈side / 2ⁿ⌉ pixels at each level to fit images of any
size; theirs uses 8 pixels instead of 7 on MNIST. And the range of pixels after the contrast normalisation is measured
on the training images; theirs is a constant per class. Until the centre is set, after the pretraining, the
score is the distance to 0 and says little.

Shape legend: N images, C channels, H and W pixels, D numbers of a code.
"""

from __future__ import annotations

import itertools
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
from puzzle_study.detectors.base import Context, Detector, Run, Shape, Traits, to_float
from puzzle_study.detectors.devices import Precision

NETWORKS: Mapping[str, tuple[tuple[int, ...], int]] = {"small": ((8, 4), 32), "large": ((32, 64, 128), 128)}
"""The paper's channels of the levels and length of the code, for MNIST and for CIFAR-10."""
KERNEL, EPSILON = 5, 1e-4
CODE_SIDE = 4
LEAST_CENTRE = 0.1
"""Least absolute value of the centre's coordinates: weights of 0 would reach a coordinate at 0."""
LEAST_CONTRAST = 1e-6
LATER = 0.1
"""Factor on the learning rate from the milestone on."""
PART = 512
"""Images at once without gradients."""


class Model(Section):
    """The encoder."""

    network: Literal["small", "large"] = Field(
        "small", description="LeNet: `small` has 8 and 4 channels and a code of 32, `large` 32, 64, 128 and 128."
    )


class Pretrain(Section):
    """The autoencoder whose encoder is trained further; it uses the batches of `train`."""

    epochs: int = Field(
        150, ge=0, le=MOST_EPOCHS, json_schema_extra=unit("epochs"), description="Passes over the images."
    )
    milestone: int = Field(
        50, ge=0, json_schema_extra=unit("epochs"), description="Epochs before the learning rate is divided by 10."
    )
    learning_rate: float = Field(1e-4, gt=0, le=1, json_schema_extra=unit("–"), description="Adam's learning rate.")
    weight_decay: float = Field(5e-4, ge=0, le=1, json_schema_extra=unit("–"), description="L2 penalty on the weights.")


class Train(epochs.Train):
    """The one-class training."""

    epochs: int = Field(
        150, ge=0, le=MOST_EPOCHS, json_schema_extra=unit("epochs"), description="Passes over the images."
    )
    milestone: int = Field(
        50, ge=0, json_schema_extra=unit("epochs"), description="Epochs before the learning rate is divided by 10."
    )
    batch_size: int = Field(200, ge=2, le=4096, json_schema_extra=unit("images"), description="Images in a step.")
    learning_rate: float = Field(1e-4, gt=0, le=1, json_schema_extra=unit("–"), description="Adam's learning rate.")
    weight_decay: float = Field(5e-7, ge=0, le=1, json_schema_extra=unit("–"), description="L2 penalty on the weights.")


LARGE_NETWORK: Layer = {
    "model": {"network": "large"},
    "pretrain": {"epochs": 350, "milestone": 250, "weight_decay": 5e-7},
}
FEW_IMAGES: Layer = {"train": {"batch_size": 32}}
DIGITS: Layer = {
    "pretrain": {"epochs": 20, "milestone": 20, "learning_rate": 1e-3},
    "train": {"epochs": 20, "milestone": 10, "batch_size": 32, "learning_rate": 1e-3},
}
"""For few, small images: the same under both presets."""
FAST_FOR_FEW: Layer = {
    "pretrain": {"epochs": 60, "milestone": 40},
    "train": {"epochs": 60, "milestone": 40, "batch_size": 16},
}


class DeepSVDDSettings(epochs.TrainedSettings):
    """The authors' settings for MNIST, Fashion-MNIST and digits, and those for CIFAR-10 on all other data sets."""

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
        "fast": {
            "pretrain": {"epochs": 8, "milestone": 6, "learning_rate": 1e-3},
            "train": {"epochs": 10, "milestone": 8, "batch_size": 64},
        },
    }
    PRESETS_BY_DATASET: ClassVar[dict[str, dict[str, Layer]]] = {
        "fast": {
            "digits": DIGITS,
            **dict.fromkeys(("coil100", "mvtec", "head_ct", "brain_mri", "folder"), FAST_FOR_FEW),
        }
    }
    ALONG: ClassVar[tuple[str, ...]] = ("train.epochs",)
    BUDGET: ClassVar[tuple[str, ...]] = ("pretrain.epochs", "train.epochs")
    LARGE: ClassVar[tuple[str, ...]] = ("train.batch_size", "model.network")
    SMALL: ClassVar[Layer] = {
        "pretrain": {"epochs": 5, "learning_rate": 1e-3},
        "train": {"epochs": 10, "batch_size": 8, "learning_rate": 1e-3},
    }

    model: Model = Field(Model(), description="The network.")
    pretrain: Pretrain = Field(Pretrain(), description="The pretraining as an autoencoder.")
    train: Train = Field(Train(), description="The one-class training.")

    @property
    def epochs_wanted(self) -> int:
        """Epochs of both trainings."""
        return self.pretrain.epochs + self.train.epochs

    def costs(self, images: Images) -> Costs:
        """Return a trial's costs, from the convolutions' multiply-adds."""
        channels, _ = NETWORKS[self.model.network]
        levels = itertools.pairwise((images.channels, *channels))
        encode = float(
            sum(images.pixels * KERNEL**2 * before * after / 4**n for n, (before, after) in enumerate(levels))
        )
        # A pretraining epoch also runs a decoder, which is about as large as the encoder.
        share = 1 + self.pretrain.epochs / max(self.epochs_wanted, 1)
        return Costs(fit=0.0, epoch=3 * share * encode, score=encode)

    def inert(self) -> dict[str, str]:
        """Return the settings without effect: those of a training that does not take place."""
        inert: dict[str, str] = {}
        if self.pretrain.epochs == 0:
            names = (f"pretrain.{name}" for name in Pretrain.model_fields if name != "epochs")
            inert |= dict.fromkeys(names, "pretrain.epochs is 0")
        return inert


class Encoder(nn.Module):
    """Convolutions without biases and batch norms without weights, because these could produce a constant."""

    def __init__(self, network: str, shape: Shape) -> None:
        super().__init__()
        channels, code = NETWORKS[network]
        pairs = list(itertools.pairwise((shape.channels, *channels)))
        self.convolutions = nn.ModuleList(nn.Conv2d(*pair, KERNEL, padding=KERNEL // 2, bias=False) for pair in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(after, eps=EPSILON, affine=False) for _, after in pairs)
        height, width = (side >> len(channels) for side in (shape.height, shape.width))
        self.code = nn.Linear(channels[-1] * height * width, code, bias=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from PyTorch's stubs

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the codes, [N, D]."""
        h_NCHW = x_NCHW
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            # Monotonic functions may follow the pooling, on a quarter of the numbers: always the rectifier, and the
            # norm once its statistics are fixed.
            h_NCHW = convolution(h_NCHW)
            pool = functional.max_pool2d
            h_NCHW = functional.leaky_relu(pool(norm(h_NCHW), 2) if self.training else norm(pool(h_NCHW, 2)))
        code_ND: Tensor = self.code(h_NCHW.flatten(1))
        return code_ND


class Decoder(nn.Module):
    """The encoder's mirror, from a code of 4×4 pixels."""

    def __init__(self, network: str, shape: Shape) -> None:
        super().__init__()
        channels, code = NETWORKS[network]
        levels = (code // CODE_SIDE**2, *reversed(channels), shape.channels)
        self.norm = nn.BatchNorm1d(code, eps=EPSILON, affine=False) if network == "large" else nn.Identity()
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(*pair, KERNEL, padding=KERNEL // 2, bias=False) for pair in itertools.pairwise(levels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after, eps=EPSILON, affine=False) for after in levels[1:-1])
        halvings = range(len(channels), -1, -1)
        self.sizes = [tuple(-(-side >> n) for side in (shape.height, shape.width)) for n in halvings]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from PyTorch's stubs

    def forward(self, code_ND: Tensor) -> Tensor:
        """Return the images, [N, C, H, W]."""
        h_NCHW = self.norm(code_ND).unflatten(1, (-1, CODE_SIDE, CODE_SIDE))
        for size, convolution, norm in zip(self.sizes, self.convolutions, (*self.norms, None), strict=True):
            h_NCHW = convolution(functional.interpolate(functional.leaky_relu(h_NCHW), size=size))
            h_NCHW = h_NCHW.sigmoid() if norm is None else norm(h_NCHW)
        images_NCHW: Tensor = h_NCHW
        return images_NCHW


@dataclass(frozen=True)
class Start:
    """The parts that only the training needs."""

    settings: DeepSVDDSettings
    decoder: Decoder
    generator: torch.Generator


class DeepSVDD(Detector):
    """An image's error is the squared distance of its code to the centre of the normal codes."""

    name = "dsvdd"
    title = "DSVDD"
    source = "Ruff et al. 2018"
    Settings = DeepSVDDSettings
    traits = Traits(epochs=True)

    centre_D: Tensor
    low: Tensor
    span: Tensor

    def __init__(self, network: str, *, shape: Shape, reading: Reading, precision: Precision = "float32") -> None:
        super().__init__(shape=shape, reading=reading, precision=precision)
        self.network = network
        self.encoder = Encoder(network, shape)
        self.register_buffer("centre_D", torch.zeros(NETWORKS[network][1]))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("span", torch.ones(()))
        self.start: Start | None = None

    @classmethod
    def build(cls, settings: DeepSVDDSettings, context: Context) -> Self:
        """Return a detector with an untrained encoder and centre 0."""
        network = settings.model.network
        with epochs.seeded(context.seed):
            detector = cls(network, shape=context.shape, reading=settings.reading)
            decoder = Decoder(network, context.shape)
            if network == "large":
                for part in (detector.encoder, decoder):
                    part.convolutions.apply(_initialise)
        generator = torch.Generator(context.device).manual_seed(context.seed)
        detector.start = Start(settings, decoder.to(context.device), generator)
        return detector.to(context.device)

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Train as an autoencoder, set the centre, and pull the codes to it."""
        if self.start is None:
            raise ValueError("a loaded detector cannot be trained further")
        settings, decoder = self.start.settings, self.start.decoder
        # Batch norm needs two images.
        images_NCHW = images_NCHW if len(images_NCHW) > 1 else images_NCHW.expand(2, -1, -1, -1)
        self._measure_range(images_NCHW)
        first = torch.optim.Adam(
            [*self.encoder.parameters(), *decoder.parameters()], weight_decay=settings.pretrain.weight_decay
        )
        second = torch.optim.Adam(self.encoder.parameters(), weight_decay=settings.train.weight_decay)
        pretraining = True

        def before(done: int) -> None:
            nonlocal pretraining
            pretraining = done < settings.pretrain.epochs
            if done == settings.pretrain.epochs:
                self._place_centre(images_NCHW)
            _set_rate(first, settings.pretrain, done)
            _set_rate(second, settings.train, done - settings.pretrain.epochs)
            self.train()

        def step(x_NCHW: Tensor) -> dict[str, Tensor]:
            x_NCHW = self._contrast(x_NCHW)
            code_ND = self.encoder(x_NCHW)
            if pretraining:
                loss = (decoder(code_ND) - x_NCHW).square().sum((1, 2, 3)).mean()
            else:
                loss = (code_ND - self.centre_D).square().sum(1).mean()
            optimiser = first if pretraining else second
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return {"loss_rec" if pretraining else "loss_distance": loss.detach()}

        epochs.train(
            images_NCHW,
            run,
            step,
            epochs=settings.epochs_wanted,
            batch_size=settings.train.batch_size,
            parts={"detector": self, "decoder": decoder, "first": first, "second": second},
            generator=self.start.generator,
            before=before,
        )
        if settings.train.epochs == 0:
            self._place_centre(images_NCHW)
        self.start = None

    def errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the squared distances, [N, 1]."""
        code_ND: Tensor = self.encoder(self._contrast(x_NCHW))
        return (code_ND - self.centre_D).square().sum(1, keepdim=True)

    def describe(self) -> dict[str, Any]:
        """Return the name of the network."""
        return {"network": self.network}

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with the described network."""
        return cls(str(described["network"]), shape=shape, reading=reading, precision=precision)

    def _contrast(self, x_NCHW: Tensor) -> Tensor:
        """Normalise each image's contrast, and the range by that of the training images."""
        return (_normalised(x_NCHW) - self.low) / self.span

    def _measure_range(self, images_NCHW: Tensor) -> None:
        ends = [torch.stack(_normalised(to_float(part)).aminmax()) for part in images_NCHW.split(PART)]
        self.low = torch.stack(ends)[:, 0].min()
        span = torch.stack(ends)[:, 1].max() - self.low
        self.span = torch.where(span > 0, span, torch.ones_like(span))

    @torch.no_grad()
    def _place_centre(self, images_NCHW: Tensor) -> None:
        """Set the centre to the mean code, away from 0."""
        self.eval()
        codes = [self.encoder(self._contrast(to_float(part))) for part in images_NCHW.split(PART)]
        mean_D = torch.cat(codes).mean(0)
        sign_D = torch.where(mean_D < 0, -1.0, 1.0)
        self.centre_D = sign_D * mean_D.abs().clamp_min(LEAST_CENTRE)


def _normalised(x_NCHW: Tensor) -> Tensor:
    """Return images whose mean is 0 and whose mean absolute value is 1."""
    centred_NCHW = x_NCHW - x_NCHW.mean((1, 2, 3), keepdim=True)
    return centred_NCHW / centred_NCHW.abs().mean((1, 2, 3), keepdim=True).clamp_min(LEAST_CONTRAST)


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("leaky_relu"))


def _set_rate(optimiser: torch.optim.Optimizer, training: Pretrain | Train, done: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = training.learning_rate * (1 if done < training.milestone else LATER)
