"""The device and arithmetic of a detector."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from typing import Any, Literal, cast, get_args

import torch

from puzzle_study.config.types import WantedPrecision
from puzzle_study.detectors.memory import first_line, is_out_of_memory
from puzzle_study.errors import UserError

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
"""Arithmetic of convolutions. TF32 is float32, but a GPU multiplies only 10 bits of the mantissa; bfloat16 has 7 of
them and float32's range; float16 has 10, and a range from 6e-8 to 65,504."""
# glibc's M_MMAP_MAX and M_TRIM_THRESHOLD: no separate mappings, and no heap returned below 2 GiB.
MALLOC_OPTIONS = {-4: 0, -1: 2**31 - 1}


def default_device() -> torch.device:
    """Return the first GPU, or the CPU without one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def chosen_device(name: str) -> torch.device:
    """Return the device for ``auto`` or PyTorch's name of one; UserError if it does not exist here."""
    if name == "auto":
        return default_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name} is unknown; use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name} is not supported; use auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name} is missing: PyTorch sees {torch.cuda.device_count()} GPUs; use auto or cpu")
    return device


def granted_device(gpus: float) -> torch.device:
    """Return a worker's device for its number of GPUs: a GPU, or the CPU for 0; UserError if PyTorch cannot use it.

    Of a GPU that it shares, the process takes no more memory than its share. On a GPU, cuDNN measures which of its
    kernels is fastest for each shape, since a training repeats few shapes often.
    """
    if gpus == 0:
        return torch.device("cpu")
    if (fault := gpu_fault(1)) is not None:
        raise UserError(cannot_use_gpu(socket.gethostname(), fault))
    torch.cuda.set_per_process_memory_fraction(float(min(gpus, 1)))
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda")


def gpu_fault(count: int) -> str | None:
    """Return why PyTorch cannot use the first so many GPUs that this process sees; None if it can.

    Call it in a process that may keep some of each GPU's memory until it ends. A full GPU is not a fault.
    """
    if (seen := torch.cuda.device_count()) < count:
        return f"PyTorch {torch.__version__} sees {seen} of {count} GPUs"
    try:
        for index in range(count):
            torch.ones(1, device=f"cuda:{index}").add_(1).item()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            return f"PyTorch {torch.__version__}: {first_line(error)}"
    return None


def cannot_use_gpu(where: str, fault: str) -> str:
    """Return the error for a requested GPU that PyTorch cannot use."""
    return (
        f"resources.gpu asks for a GPU that cannot be used on {where} ({fault}); install a PyTorch for its GPU and "
        f"driver there, or train on the CPU with --set resources.gpu=0"
    )


def resolve_precision(wanted: WantedPrecision, device: torch.device) -> Precision:
    """Resolve ``auto``: bfloat16 if the hardware multiplies it natively, otherwise float32.

    Raises:
        UserError: the device has no TF32, and it is wanted.
    """
    if wanted == "tf32" and not _has_tf32(device):
        raise UserError(
            "precision tf32 needs a GPU of NVIDIA's Ampere generation or later (an A100, say), and "
            f"{'this GPU is older' if device.type == 'cuda' else 'trials train on the CPU here'}; use auto"
        )
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return "bfloat16" if native else "float32"


def _has_tf32(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_tf32_supported())


def known_precision(name: Any) -> Precision:
    """Return a precision that was read from a file; ValueError if there is none of that name."""
    if name not in get_args(Precision):
        raise ValueError(f"precision {name} is unknown")
    return cast(Precision, name)


def dtype_of(precision: Precision) -> torch.dtype:
    """Return the type of the numbers that convolutions multiply."""
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Return the context in which convolutions run in ``precision``; weights and losses stay float32."""
    dtype = dtype_of(precision)
    return convolving(device, precision) if dtype == torch.float32 else torch.autocast(device.type, dtype)


def convolving(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Return a context in which a GPU convolves float32 without rounding it to TF32's 10 bits, unless it is ``tf32``.

    PyTorch rounds by default, and checks again in the backward pass, so gradients need the context too.
    """
    if device.type != "cuda":
        return contextlib.nullcontext()
    return _multiplying("tf32" if precision == "tf32" else "ieee")


def whole_float32(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context of :func:`convolving` for whatever is computed in float32."""
    return convolving(device, "float32")


@contextlib.contextmanager
def _multiplying(how: str) -> Iterator[None]:
    """Set only this flag of the process; torch.backends.cudnn.flags would set all of cuDNN's."""
    # Not the older allow_tf32, which cannot be read after a program has set this flag.
    cudnn: Any = torch.backends.cudnn  # untyped in part
    flags = cudnn.conv
    before = flags.fp32_precision
    flags.fp32_precision = how
    try:
        yield
    finally:
        flags.fp32_precision = before


def claim_cpus(cpus: float) -> None:
    """Let PyTorch use this many CPUs of this process, at least one, and keep its memory."""
    torch.set_num_threads(threads(cpus))
    keep_freed_memory()


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(cpus: float) -> int:
    """Return a trial's number of threads for its CPUs; the last bits of its sums depend on it."""
    return max(1, int(cpus))


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next feature map.

    It otherwise returns blocks of 32 MB or more and requests them again each time, and the kernel fills their pages
    with zeros: an eighth of the scoring time at base 64. With another C library, nothing is done.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in MALLOC_OPTIONS.items():
        set_option(option, value)
