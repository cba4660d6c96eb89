"""One copy of a network's weights in 16 bits for each step, in few kernels; gradients are summed in float32.

Autocast would cast each weight, and its gradient, by a kernel of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Casts:
    """The weights of a network's convolutions in a precision; if it is float32, nothing is cast.

    Args:
        network: placed, with its final kernels.
        dtype: what its convolutions multiply.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self._places = [
            (module, name)
            for module in network.modules()
            if isinstance(module, nn.Conv2d) and dtype != torch.float32
            for name in ("weight", "bias")
            if getattr(module, name) is not None
        ]
        self._weights: list[nn.Parameter] = [getattr(module, name) for module, name in self._places]
        self._casts = [nn.Parameter(torch.empty_like(weight, dtype=dtype)) for weight in self._weights]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network work with the casts of its current weights."""
        if self._casts:
            with torch.no_grad():
                torch._foreach_copy_(self._casts, self._weights)  # type: ignore[arg-type]  # lists are not covariant
        self._put(self._casts)
        try:
            yield
        finally:
            self._put(self._weights)

    def _put(self, weights: list[nn.Parameter]) -> None:
        for (module, name), weight in zip(self._places, weights, strict=True):
            module._parameters[name] = weight

    @torch.no_grad()
    def gather(self) -> None:
        """Add the casts' gradients to those of the weights, which all have one or all have none."""
        if not self._casts:
            return
        found = _gradients(self._casts)
        for cast in self._casts:
            cast.grad = None
        if there := _gradients(self._weights):
            torch._foreach_add_(there, found)
            return
        for weight in self._weights:
            weight.grad = torch.empty_like(weight)
        torch._foreach_copy_(_gradients(self._weights), found)


def _gradients(weights: list[nn.Parameter]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]
