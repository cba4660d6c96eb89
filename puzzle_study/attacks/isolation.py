"""What an attack must leave as it found it: random state, training mode, the caller's gradient mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn


def child_seed(*words: int) -> int:
    """Return the seed that belongs to these numbers, for torch's 64-bit generators."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside and give them back as they were.

    The attacks of torchattacks draw from them and some reseed them. GPUs that the process has not opened are left
    closed; they have no state to keep.
    """
    cuda: Any = torch.cuda  # partly untyped
    gpus = list(range(cuda.device_count())) if cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        if gpus:
            cuda.manual_seed_all(seed)
        yield


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and all it contains into eval mode, and each part back into its own mode afterwards.

    ``module.train()`` afterwards, as torchattacks does, would wake parts that had been frozen in eval mode.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
