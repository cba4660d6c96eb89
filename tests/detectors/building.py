"""Detectors from the settings that a study file would have, and the size of their networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from puzzle_study.config import layers
from puzzle_study.detectors.base import Context, Detector, Shape

CPU = torch.device("cpu")
Kind = TypeVar("Kind", bound=Detector)


def built(kind: type[Kind], own: Mapping[str, Any], dataset: str, shape: Shape) -> Kind:
    """Return a detector that is not fitted yet."""
    settings = kind.Settings.model_validate(layers.resolved(kind.Settings, dict(own), dataset))
    return kind.build(settings, Context(shape, 0, CPU, "float32", dataset))


def weights(network: nn.Module) -> int:
    """Return how many weights a network has."""
    return sum(weight.numel() for weight in network.parameters())
