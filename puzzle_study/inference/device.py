"""Where a finished detector computes."""

from __future__ import annotations

import torch

from puzzle_study.detectors.devices import default_device
from puzzle_study.errors import UserError


def chosen_device(name: str) -> torch.device:
    """Return the device that ``auto`` or PyTorch's name of one stands for.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        return default_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name} is unknown; use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name} is not supported; use auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name} is not there: PyTorch sees {torch.cuda.device_count()} GPUs; use auto or cpu")
    return device
