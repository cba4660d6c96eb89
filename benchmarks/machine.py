"""What the machine can do: the rate of its convolutions, and memory."""

from __future__ import annotations

import resource
import time

import torch
from torch.nn import functional as F


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def convolution_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.4) -> float:
    """Return multiply-adds a second of the fastest of a few 3×3 channels-last convolutions."""
    best = 0.0
    shapes = ((64, 28, 64), (128, 28, 32), (256, 14, 64)) if device.type == "cpu" else ((256, 64, 64), (512, 32, 128))
    for channels, side, batch in shapes:
        layout = torch.channels_last
        x = torch.randn(batch, channels, side, side, device=device, dtype=dtype).to(memory_format=layout)
        weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).to(memory_format=layout)
        work = batch * side * side * channels * channels * 9
        with torch.no_grad():
            F.conv2d(x, weight, padding=1)
            synchronise(device)
            runs, started = 0, time.perf_counter()
            while runs < 3 or time.perf_counter() - started < seconds / len(shapes):
                F.conv2d(x, weight, padding=1)
                synchronise(device)
                runs += 1
        best = max(best, runs * work / (time.perf_counter() - started))
    return best


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory that was in use so far: of the process, or on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
