"""Shared by detectors on features: the network, its image size, and the features of training images.

Shape legend: N images, C channels, H and W pixels, h and w positions of a map.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from puzzle_study.config.types import Costs, DetectorSettings, Images, Layer, Reading, Rule, unit
from puzzle_study.datasets.catalogue import DATASETS
from puzzle_study.detectors import exported, feature_cache, feature_networks
from puzzle_study.detectors.base import LEAST_SIDE, Context, Detector, Shape, Traits
from puzzle_study.detectors.devices import Precision, autocast
from puzzle_study.detectors.feature_networks import Network
from puzzle_study.detectors.memory import first_line, room
from puzzle_study.errors import UserError

if TYPE_CHECKING:
    from puzzle_study.config import Data

log = logging.getLogger(__name__)

MOST_SIDE = 1024
PIXELS_AT_ONCE = {"cpu": 2**17, "cuda": 2**24}
"""Pixels of all images that go through the network at once, so that on a CPU its maps stay in the cache."""
MULTIPLY_ADDS = 8_000
"""Multiply-adds of EfficientNet-Lite0 per pixel."""


class FeatureSettings(DetectorSettings):
    """Which network's features are compared, and how large the network sees the images."""

    DATASETS: ClassVar[Mapping[str, Layer]] = {
        "digits": {"input_size": 32},
        "mnist": {"input_size": 64},
        "fashion_mnist": {"input_size": 64},
        "cifar10": {"input_size": 96},
    }
    PATHS: ClassVar[tuple[str, ...]] = ("features",)
    SMALL: ClassVar[Layer] = {"input_size": 48}
    LARGE: ClassVar[tuple[str, ...]] = ("input_size",)

    features: str | None = Field(
        None,
        description="File of `torch.export.save` with the network (see docs/detectors.md); null: EfficientNet-Lite0 "
        "from the extra `features`. A relative path starts from the folder in which the command runs.",
    )
    input_size: int | None = Field(
        None,
        ge=LEAST_SIDE,
        le=MOST_SIDE,
        json_schema_extra=unit("pixels"),
        description="Longer side of the image as the network sees it; null: the file's required size, otherwise the "
        "image's own.",
    )

    def costs(self, images: Images) -> Costs:
        """Return a trial's costs: the network's work on every image."""
        pixels = images.pixels if self.input_size is None else self.input_size**2
        seen = float(MULTIPLY_ADDS * pixels)
        return Costs(fit=images.train * seen, epoch=0.0, score=seen)

    def notes(self, channels: int) -> list[str]:
        """Say how gray images are shown to a colour network."""
        wanted = 3 if self.features is None else _header(self.features).channels
        if (channels, wanted) == (1, 3):
            return ["gray images are shown to the feature network as three equal colour channels"]
        return []


@lru_cache(maxsize=8)
def _header_of(path: str, changed: int) -> exported.ExportedNetwork:
    with torch.device("meta"):
        return exported.ExportedNetwork(exported.read_program(Path(path)))


def _header(path: str) -> exported.ExportedNetwork:
    """Return the file's network without its weights, read again only if the file changes."""
    file = Path(path)
    return _header_of(path, file.stat().st_mtime_ns if file.exists() else 0)


def seen_size(network: Network, wanted: int | None, channels: int, height: int, width: int) -> tuple[int, int]:
    """Return the height and width at which a network sees images; UserError if it does not take them."""
    if channels != network.channels and (channels, network.channels) != (1, 3):
        mend = "set data.grayscale: true, or give another file" if network.channels == 1 else "give another file"
        raise UserError(
            f"the feature network needs images with {network.channels} channels and these have {channels}; {mend}"
        )
    if network.size is None:
        scale = wanted / max(height, width) if wanted is not None else 1.0
        return max(1, round(height * scale)), max(1, round(width * scale))
    if wanted is not None and wanted != max(network.size):
        raise UserError(
            f"the feature network needs images of {network.size[0]}×{network.size[1]} pixels and input_size is "
            f"{wanted}; set input_size: {max(network.size)} or null, or export the network for another size"
        )
    return network.size


def _check_network(settings: FeatureSettings, data: Data) -> None:
    """Refuse a missing or unsuitable network before anything is trained."""
    info = DATASETS[data.name]
    channels, side = 1 if data.grayscale else info.channels, data.size or info.size
    if settings.features is not None:
        seen_size(_header(settings.features), settings.input_size, channels, side, side)
        return
    for package in (feature_networks.CODE, feature_networks.WEIGHTS):
        feature_networks.require_package(package)


FeatureSettings.RULES = (Rule(("features", "input_size"), _check_network),)


class FeatureDetector(Detector):
    """A detector that compares features of images from a frozen network.

    The network's weights are saved with it: at most 12 MB of EfficientNet-Lite0, or the file's.

    Attributes:
        TAPS: the maps of EfficientNet-Lite0 that it uses.
        MAPS: whether it needs maps instead of vectors.
    """

    Settings = FeatureSettings
    traits = Traits(features=True)
    squares = False
    TAPS: ClassVar[tuple[int, ...]]
    MAPS: ClassVar[bool] = True

    def __init__(
        self, network: Network, size: tuple[int, int], *, shape: Shape, reading: Reading, precision: Precision
    ) -> None:
        super().__init__(shape=shape, reading=reading, precision=precision)
        self.network = network.eval().requires_grad_(False)
        self.size = size

    @classmethod
    def opened(cls, settings: FeatureSettings, context: Context) -> tuple[Network, tuple[int, int]]:
        """Return a configuration's network with its weights, and its image size; UserError if it does not fit."""
        shape, network = context.shape, feature_networks.open_network(settings.features, cls.TAPS)
        size = seen_size(network, settings.input_size, shape.channels, shape.height, shape.width)
        if cls.MAPS and any(dimensions != 4 for dimensions in network.dimensions):
            raise UserError(
                f"{cls.name} needs a feature network whose outputs are all maps [N, C, h, w], and {settings.features} "
                f"has an output of {min(network.dimensions)} dimensions; export maps, or use feature_knn"
            )
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(2, network.channels, *size))
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"the feature network cannot be run on {size[0]}×{size[1]} pixels ({first_line(error)}); set another "
                f"input_size, or export the network again"
            ) from error
        return network.to(context.device), size

    def train(self, mode: bool = True) -> Self:
        """Keep the network in evaluation mode: its batch norm never learns."""
        super().train(mode)
        self.network.eval()
        return self

    def features(self, x_NCHW: Tensor) -> list[Tensor]:
        """Return the network's outputs of images in [0, 1], float32, differentiable."""
        if tuple(x_NCHW.shape[-2:]) != self.size:
            x_NCHW = F.interpolate(x_NCHW, self.size, mode="bilinear", antialias=True)
        x_NCHW = x_NCHW.expand(-1, self.network.channels, -1, -1)
        with autocast(self.device, self.precision):
            outputs: list[Tensor] = self.network(x_NCHW)
        return [output.float() for output in outputs]

    def compared(self, x_NCHW: Tensor) -> list[Tensor]:
        """Return the part of the features to keep for training images; by default all."""
        return self.features(x_NCHW)

    @torch.no_grad()
    def training_features(self, images_NCHW: Tensor) -> list[Tensor]:
        """Return :meth:`compared` of all training images on the CPU, from the cache if possible."""
        if self.shape.channels != self.network.channels:
            log.info("gray images are shown to the feature network as three equal colour channels")

        def compute() -> Sequence[Tensor]:
            parts: list[list[Tensor]] = []
            self.by_chunks(images_NCHW, lambda part, x_NCHW: parts.append([one.cpu() for one in self.compared(x_NCHW)]))
            return [torch.cat(output) for output in zip(*parts, strict=True)]

        self.eval()
        what = {
            "images": feature_cache.digest(images_NCHW),
            "network": feature_networks.fingerprint(self.network),
            "kept": type(self).compared.__qualname__,
            "shape": [self.shape.channels, self.shape.height, self.shape.width],
            "size": self.size,
            "precision": self.precision,
            "device": self.device.type,
        }
        return feature_cache.kept(what, compute)

    def views_at_once(self) -> int:
        """Return how many images go through the network at once."""
        return max(1, room(PIXELS_AT_ONCE, self.device) // math.prod(self.size))

    def differentiable_views_at_once(self) -> int:
        """Return how many images do so with their gradients."""
        return max(1, self.views_at_once() // 4) if self.device.type == "cuda" else self.views_at_once()

    def describe(self) -> dict[str, Any]:
        """Return the network without its weights, its image size, and the shape of the images."""
        shape = self.shape
        return {
            "network": feature_networks.described(self.network),
            "size": list(self.size),
            "image": [shape.channels, shape.height, shape.width],
        }

    @staticmethod
    def restored_network(described: Mapping[str, Any], shape: Shape) -> tuple[Network, tuple[int, int]]:
        """Return a description's network and its image size; ValueError, KeyError or TypeError for invalid values."""
        # No weights depend on the image's size, so nothing else would reveal it.
        if described["image"] != [shape.channels, shape.height, shape.width]:
            raise ValueError(f"it was fitted on images {described['image']}, not {shape}")
        height, width = (int(side) for side in described["size"])
        if not (1 <= height <= MOST_SIDE and 1 <= width <= MOST_SIDE):
            raise ValueError(f"the network cannot see {height}×{width} pixels")
        return feature_networks.restored(described["network"]), (height, width)
