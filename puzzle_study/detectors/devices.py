"""Which device and arithmetic a detector uses here."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Literal

import torch

from puzzle_study.config.types import WantedPrecision

Precision = Literal["float32", "bfloat16"]
# glibc's M_MMAP_MAX and M_TRIM_THRESHOLD: no block of its own mapping, none of the heap given back below 2 GiB.
MALLOC_OPTIONS = {-4: 0, -1: 2**31 - 1}


def default_device() -> torch.device:
    """Return the first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(wanted: WantedPrecision, device: torch.device) -> Precision:
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
        return whole_float32(device)
    return torch.autocast(device.type, torch.bfloat16)


def whole_float32(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a GPU convolves float32 without rounding it to the 10 bits of TF32.

    PyTorch allows TF32 unless told otherwise, and asks anew on the way back: gradients need the context too.
    """
    return _without_tf32() if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Set this one flag of the process; torch.backends.cudnn.flags would set all of cuDNN's."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def claim_cpus(cpus: float) -> None:
    """Let PyTorch use so many CPUs of this process, one at least, and keep its memory."""
    torch.set_num_threads(max(1, int(cpus)))
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep what this process frees, for the next feature map.

    Blocks of 32 MB and more it otherwise gives back and asks for anew each time, and the kernel fills their pages
    with zeros: an eighth of the time of scoring at base 64. Where there is another C library, nothing is done.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in MALLOC_OPTIONS.items():
        set_option(option, value)
