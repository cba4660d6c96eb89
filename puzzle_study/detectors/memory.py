"""If memory runs out, work continues with half as much at once; if even one is too much, it is an error."""

from __future__ import annotations

import logging
import re
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from puzzle_study.errors import UserError

log = logging.getLogger(__name__)
Found = TypeVar("Found")
# PyTorch's message if malloc fails. Its GPU allocator raises its own class, CUDA's libraries do not.
CPU_ALLOCATOR = re.compile(
    r"DefaultCPUAllocator: (?:can't allocate|not enough) memory: you tried to allocate (\d+) bytes"
)
GPU_LIBRARIES = re.compile(r"(?:CUDA|HIP) error: out of memory|CU(?:DNN|BLAS)_STATUS_\w*ALLOC\w*_FAILED")
GPU_ALLOCATOR = re.compile(r"Tried to allocate ([\d.]+) ([KMG])iB")
GIB = {"K": 2.0**-20, "M": 2.0**-10, "G": 1.0}


@dataclass
class AtOnce:
    """How many views, or images, are in memory at once; halved permanently if memory runs out."""

    count: int

    def halve(self) -> bool:
        """Halve the count; False if it is already one."""
        there, self.count = self.count, max(1, self.count // 2)
        return there > 1


def share_of_gpu(device: torch.device) -> float:
    """Return the share of a GPU's memory that this process may use; 1 on the CPU."""
    return torch.cuda.get_per_process_memory_fraction(device.index) if device.type == "cuda" else 1.0


def room(numbers: Mapping[str, int], device: torch.device) -> int:
    """Return the number for a kind of device; of that for a GPU as much as this process has a share of it."""
    return int(numbers[device.type] * share_of_gpu(device))


def halving(at_once: AtOnce, work: Callable[[], Found]) -> Found:
    """Return the result of ``work``, repeated with half as much ``at_once`` while memory runs out.

    ``work`` reads the count each time it is called. UserError if memory is too small for one at a time.
    """
    try:
        return halving_or_raise(at_once, work)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"there is not enough memory for one view of an image at a time ({first_line(error)}); lower data.size or "
            f"the size of the detector, or run fewer trials at once (resources, max_concurrent)"
        ) from None


def halving_or_raise(at_once: AtOnce, work: Callable[[], Found]) -> Found:
    """Do as :func:`halving` does, but pass on the error if memory is too small for one at a time."""
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not at_once.halve():
                raise
            log.warning("memory ran out (%s); going on with %d at once", first_line(error), at_once.count)
        # The error and its frames' tensors are released here, so there is memory again.
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or not."""
    said = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words.search(said) for words in (CPU_ALLOCATOR, GPU_LIBRARIES)
    )


def needed_gib(error: BaseException, device: torch.device) -> float:
    """Return the least memory that would have been needed: the peak, and the failed request."""
    asked = 0.0
    if found := GPU_ALLOCATOR.search(str(error)):
        asked = float(found[1]) * GIB[found[2]]
    elif found := CPU_ALLOCATOR.search(str(error)):
        asked = int(found[1]) / 2**30
    if device.type == "cuda":
        return asked + torch.cuda.max_memory_allocated(device) / 2**30
    return asked + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or the name of its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0]
