"""The convolutional autoencoder of Bergmann et al. 2019, and its settings.

Differences from their paper, for every detector with this network:

- The paper cuts patches of 128 pixels out of textures and scales objects to 256. Here the network takes whole images of
  ``data.size``. The number of strided convolutions follows the size, so that the last map has about 8×8 pixels as in
  the paper: five at 256 pixels, four at 128, two at 28.
- The paper does not state its initial weights. Here they are He's, because PyTorch's shrink from layer to layer, and 20
  layers then predict the mean image for hundreds of steps.
- An image's error is the mean of its map. The paper judges only pixels.

Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from puzzle_study.config.types import MOST_EPOCHS, Costs, Images, Layer, Section, unit
from puzzle_study.detectors.base import Shape
from puzzle_study.detectors.epochs import Train, TrainedSettings
from puzzle_study.detectors.memory import room
from puzzle_study.detectors.rebuilding import Rebuilding

SOURCE = (
    "Bergmann, Löwe, Fauser, Sattlegger, Steger 2019: Improving Unsupervised Defect Segmentation by Applying "
    "Structural Similarity to Autoencoders"
)
SLOPE = 0.2
LAST_SIDE = 8
LEAST_HALVINGS = 2
MOST_CODE = 4096
MOST_BASE_CHANNELS = 256
# Numbers of the widest feature map for one chunk of images.
CHUNK_NUMBERS = {"cpu": 10_000_000, "cuda": 400_000_000}


class AutoencoderTrain(Train):
    """The training (Bergmann et al. 2019, section 4.1)."""

    epochs: int = Field(
        200, ge=0, le=MOST_EPOCHS, json_schema_extra=unit("epochs"), description="Passes over the images."
    )
    learning_rate: float = Field(2e-4, gt=0, le=1, json_schema_extra=unit("–"), description="Adam's learning rate.")
    weight_decay: float = Field(1e-5, ge=0, le=1, json_schema_extra=unit("–"), description="L2 penalty on the weights.")


class AutoencoderModel(Section):
    """The autoencoder (Bergmann et al. 2019, Table 1)."""

    code: int = Field(
        100,
        ge=1,
        le=MOST_CODE,
        json_schema_extra=unit("numbers"),
        description="Numbers in the bottleneck; the paper has 100 for textures and 500 for objects.",
    )
    base_channels: int = Field(
        32,
        ge=1,
        le=MOST_BASE_CHANNELS,
        json_schema_extra=unit("channels"),
        description="Channels of the first convolution; the widest one has four times as many.",
    )


FAST_IMAGES: Layer = {"model": {"code": 100}, "train": {"epochs": 60, "batch_size": 16}}


class AutoencoderSettings(TrainedSettings):
    """Bergmann's network and training. On other data sets than MVTec AD, `paper` is the same training."""

    DATASETS: ClassVar[dict[str, Layer]] = {
        "digits": {"preset": "fast"},
        "mvtec": {"data": {"size": 256, "augment_to": 10_000}, "model": {"code": 500}},
        "folder": {"preset": "fast"},
    }
    PRESETS: ClassVar[dict[str, Layer]] = {
        "paper": {},
        "fast": {
            "model": {"code": 16, "base_channels": 8},
            "train": {"epochs": 20, "batch_size": 32, "learning_rate": 3e-3},
        },
    }
    # A few hundred images of 128 pixels need more passes, and textures more numbers than digits.
    PRESETS_BY_DATASET: ClassVar[dict[str, dict[str, Layer]]] = {
        "fast": {
            "mvtec": {"data": {"size": 128, "augment_to": 800}} | FAST_IMAGES,
            "folder": FAST_IMAGES,
            "head_ct": FAST_IMAGES,
            "brain_mri": FAST_IMAGES,
        }
    }
    ALONG: ClassVar[tuple[str, ...]] = ("train.epochs",)
    BUDGET: ClassVar[tuple[str, ...]] = ("train.epochs", "model.base_channels")
    SMALL: ClassVar[Layer] = {
        "model": {"code": 8, "base_channels": 4},
        "train": {"epochs": 25, "batch_size": 8, "learning_rate": 5e-3},
    }
    LARGE: ClassVar[tuple[str, ...]] = ("train.batch_size", "model.base_channels")

    train: AutoencoderTrain = Field(AutoencoderTrain(), description="The training.")
    model: AutoencoderModel = Field(AutoencoderModel(), description="The network.")

    def costs(self, images: Images) -> Costs:
        """Return a trial's costs, from the convolutions' multiply-adds."""
        side = math.isqrt(images.pixels)
        pixels, inputs, adds = float(images.pixels), images.channels, 0.0
        for kernel, stride, outputs in encoder_layers(halvings(side, side), self.model.base_channels):
            pixels /= stride**2
            adds += pixels * inputs * outputs * kernel**2
            inputs = outputs
        return Costs(fit=0.0, epoch=6 * adds, score=2 * adds)


def halvings(height: int, width: int) -> int:
    """Return how many strided convolutions leave about 8 pixels of the smaller side, at least two."""
    return max(LEAST_HALVINGS, round(math.log2(min(height, width) / LAST_SIDE)))


def encoder_layers(count: int, base: int) -> tuple[tuple[int, int, int], ...]:
    """Return kernel, stride and channels of each convolution before the code, for this many halvings."""
    return (
        *((4, 2, base),) * (count - LEAST_HALVINGS),
        (3, 1, base),
        (4, 2, 2 * base),
        (3, 1, 2 * base),
        (4, 2, 4 * base),
        (3, 1, 2 * base),
        (3, 1, base),
    )


class ConvolutionalAutoencoder(nn.Module):
    """Convolutions down to a code and the same ones back, with leaky ReLU, linear code and linear output.

    Args:
        shape: of the images; sides that do not halve evenly are padded by their edge and cropped again.
        code: numbers in the bottleneck.
        base_channels: channels of the first convolution.
        last: activation after the last layer; None: none, as in the paper.
    """

    def __init__(self, shape: Shape, *, code: int, base_channels: int, last: nn.Module | None = None) -> None:
        super().__init__()
        count = halvings(shape.height, shape.width)
        self.sides = shape.height, shape.width
        self.padding = -shape.height % 2**count, -shape.width % 2**count
        sides = (shape.height + self.padding[0]) // 2**count, (shape.width + self.padding[1]) // 2**count
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        inputs = shape.channels
        for kernel, stride, outputs in encoder_layers(count, base_channels):
            down += [nn.Conv2d(inputs, outputs, kernel, stride, padding=1), nn.LeakyReLU(SLOPE)]
            back = nn.Conv2d if stride == 1 else nn.ConvTranspose2d
            up = [nn.LeakyReLU(SLOPE), back(outputs, inputs, kernel, stride, padding=1), *up]
            inputs = outputs
        self.encoder = nn.Sequential(*down, nn.Conv2d(inputs, code, sides))
        # A kernel moved by its own size: it has one position, so each pixel gets only its weights.
        up = [nn.ConvTranspose2d(code, inputs, sides, stride=sides), *up]
        self.decoder = nn.Sequential(*up, *([last] if last else []))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                _initialise(layer)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the reconstructed images, [N, C, H, W]."""
        (bottom, right), (height, width) = self.padding, self.sides
        padded = F.pad(x_NCHW, (0, right, 0, bottom), mode="replicate") if bottom or right else x_NCHW
        return cast(Tensor, self.decoder(self.encoder(padded))[..., :height, :width])


def _initialise(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Draw He normal weights by the actual number of inputs of an output pixel, and zero biases."""
    inputs = float(layer.in_channels * math.prod(layer.kernel_size))
    if isinstance(layer, nn.ConvTranspose2d):
        inputs /= math.prod(layer.stride)
    nn.init.normal_(layer.weight, std=nn.init.calculate_gain("leaky_relu", SLOPE) / math.sqrt(inputs))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


class Autoencoder(Rebuilding):
    """A detector with the network of Bergmann et al.; each kind has its own loss and map."""

    Model = AutoencoderModel

    @classmethod
    def network_for(cls, model: AutoencoderModel, shape: Shape) -> ConvolutionalAutoencoder:
        """Return the untrained network."""
        return ConvolutionalAutoencoder(shape, code=model.code, base_channels=model.base_channels)

    def views_at_once(self) -> int:
        """Return how many images with their widest feature map fit the cache or the GPU."""
        pixels = self.shape.height * self.shape.width
        if halvings(self.shape.height, self.shape.width) > LEAST_HALVINGS:
            pixels //= 4
        model: AutoencoderModel = self.model
        return max(1, room(CHUNK_NUMBERS, self.device) // (pixels * model.base_channels))

    def placed(self, device: torch.device) -> Self:
        """Move to a device, with weights in the layout that makes these convolutions 1.5 times as fast."""
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self.to(device)
