"""Which device and arithmetic a detector uses here."""

from __future__ import annotations

import contextlib
from typing import Literal, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)
Precision = Literal["float32", "bfloat16"]


def default_device() -> torch.device:
    """Return the first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """Resolve ``auto``: bfloat16 where the hardware multiplies it natively, else float32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return "bfloat16" if native else "float32"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Return the context in which convolutions run in ``precision``; weights and losses stay float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def place(network: Network, device: torch.device) -> Network:
    """Move a network to a device, its weights in the channels-last layout in which convolutions are fastest."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
