"""A convolution whose passes are oneDNN's, or matrix products over the columns of the maps (im2col): the same sums.

Shape legend: N images, H and W pixels, C channels in, O channels out, i and j rows and columns of the kernel, I and J
those of them that meet the image at all, R = N·H·W rows, as convolutions here keep the size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Pass = Literal["forward", "input", "weight"]
"""The forward pass, and the gradients of the input and of the weights (with the bias)."""
PASSES: tuple[Pass, ...] = ("forward", "input", "weight")


class Convolution(nn.Conv2d):
    """A convolution of stride 1 that keeps the size; the passes in ``products`` are matrix products."""

    products: frozenset[Pass] = frozenset()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the convolution, [N, O, H, W]."""
        if not self.products or torch.compiler.is_compiling():  # exporting needs steps that ONNX has
            return super().forward(x_NCHW)
        weight_OCij, bias_O = self.weight, self.bias
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x_NCHW, weight_OCij = x_NCHW.to(dtype), weight_OCij.to(dtype)
            bias_O = None if bias_O is None else bias_O.to(dtype)
        answer = _Mixed.apply(x_NCHW, weight_OCij, bias_O, self.products)  # type: ignore[no-untyped-call]
        return cast(Tensor, answer)


class _Mixed(torch.autograd.Function):
    """A convolution whose passes are each oneDNN's or a matrix product."""

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, weight_OCij: Tensor, bias_O: Tensor | None, products: frozenset[Pass]) -> Any:
        ctx.save_for_backward(x_NCHW, weight_OCij)
        ctx.products, ctx.has_bias = products, bias_O is not None
        if "forward" in products:
            return _forward(x_NCHW, weight_OCij, bias_O)
        return F.conv2d(x_NCHW, weight_OCij, bias_O, padding=_padding(weight_OCij))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NOHW: Tensor) -> Any:
        x_NCHW, weight_OCij = ctx.saved_tensors
        need_x, need_weight = ctx.needs_input_grad[:2]
        need_bias = ctx.has_bias and ctx.needs_input_grad[2]
        by_product = "weight" in ctx.products
        mask = [need_x and "input" not in ctx.products, need_weight and not by_product, need_bias and not by_product]
        found: list[Tensor | None] = [None, None, None]
        if any(mask):
            found = list(_by_onednn(gradient_NOHW, x_NCHW, weight_OCij, mask))
        if need_x and not mask[0]:
            found[0] = _input_gradient(gradient_NOHW, x_NCHW, weight_OCij)
        if need_weight and by_product:
            found[1] = _weight_gradient(gradient_NOHW, x_NCHW, weight_OCij)
        if need_bias and by_product:
            found[2] = gradient_NOHW.sum((0, 2, 3))
        return *found, None


def _padding(weight_OCij: Tensor) -> list[int]:
    return [side // 2 for side in weight_OCij.shape[2:]]


def _by_onednn(gradient_NOHW: Tensor, x_NCHW: Tensor, weight_OCij: Tensor, mask: list[bool]) -> Any:
    return torch.ops.aten.convolution_backward(
        *(gradient_NOHW, x_NCHW, weight_OCij, [len(weight_OCij)]),
        *([1, 1], _padding(weight_OCij), [1, 1], False, [0, 0], 1, mask),
    )


def _used(weight_OCij: Tensor, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of a kernel that meet an image; on one pixel only the middle one does."""
    rows, columns = (
        slice(max(0, half - side + 1), min(kernel, half + side))
        for half, side, kernel in zip(_padding(weight_OCij), (height, width), weight_OCij.shape[2:], strict=True)
    )
    return rows, columns


def _columns(x_NCHW: Tensor, rows: slice, columns: slice, padding: list[int]) -> Tensor:
    """Return the pixels that each pixel's sum is over, [R, I·J·C]."""
    n, channels, height, width = x_NCHW.shape
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    x_NHWC = x_NCHW.permute(0, 2, 3, 1)
    if high == wide == 1:
        return x_NHWC.reshape(-1, channels)
    top, left = padding[0] - rows.start, padding[1] - columns.start
    x_NHWC = F.pad(x_NHWC, (0, 0, left, wide - 1 - left, top, high - 1 - top)).contiguous()
    image, row, pixel, channel = x_NHWC.stride()
    seen_NHWIJC = x_NHWC.as_strided((n, height, width, high, wide, channels), (image, row, pixel, row, pixel, channel))
    return seen_NHWIJC.reshape(n * height * width, -1)


def _rows(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.permute(0, 2, 3, 1).reshape(-1, x_NCHW.shape[1])


def _forward(x_NCHW: Tensor, weight_OCij: Tensor, bias_O: Tensor | None) -> Tensor:
    rows, columns = _used(weight_OCij, *x_NCHW.shape[2:])
    seen = _columns(x_NCHW, rows, columns, _padding(weight_OCij))
    weight = _rows(weight_OCij[:, :, rows, columns]).reshape(len(weight_OCij), -1)
    outputs, (n, _, height, width) = len(weight_OCij), x_NCHW.shape
    # The product is written into it: a custom function's view cannot be changed in place, as ReLU does.
    answer_NOHW = torch.empty((n, outputs, height, width), dtype=seen.dtype, memory_format=torch.channels_last)
    answer_RO = answer_NOHW.permute(0, 2, 3, 1).view(-1, outputs)
    if bias_O is None:
        torch.mm(seen, weight.T, out=answer_RO)
    else:
        torch.addmm(bias_O, seen, weight.T, out=answer_RO)
    return answer_NOHW


def _input_gradient(gradient_NOHW: Tensor, x_NCHW: Tensor, weight_OCij: Tensor) -> Tensor:
    n, channels, height, width = x_NCHW.shape
    rows, columns = _used(weight_OCij, height, width)
    weight = _rows(weight_OCij[:, :, rows, columns]).reshape(len(weight_OCij), -1)
    each = _rows(gradient_NOHW) @ weight
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    if high == wide == 1:
        return each.view(n, height, width, channels).permute(0, 3, 1, 2)
    each_NHWIJC = each.view(n, height, width, high, wide, channels)
    sums_NHWC = each.new_zeros((n, height + high - 1, width + wide - 1, channels), dtype=torch.float32)
    for i in range(high):
        for j in range(wide):
            sums_NHWC[:, i : i + height, j : j + width] += each_NHWIJC[:, :, :, i, j]
    top, left = _padding(weight_OCij)[0] - rows.start, _padding(weight_OCij)[1] - columns.start
    return sums_NHWC[:, top : top + height, left : left + width].to(each.dtype).permute(0, 3, 1, 2)


def _weight_gradient(gradient_NOHW: Tensor, x_NCHW: Tensor, weight_OCij: Tensor) -> Tensor:
    rows, columns = _used(weight_OCij, *x_NCHW.shape[2:])
    seen = _columns(x_NCHW, rows, columns, _padding(weight_OCij))
    found = _rows(gradient_NOHW).T @ seen
    outputs, channels, kernel_rows, kernel_columns = weight_OCij.shape
    found_OIJC = found.view(outputs, rows.stop - rows.start, columns.stop - columns.start, channels)
    margins = (0, 0, columns.start, kernel_columns - columns.stop, rows.start, kernel_rows - rows.stop)
    return F.pad(found_OIJC, margins).permute(0, 3, 1, 2)


def direct_passes(
    x_NCHW: Tensor, weight_OCij: Tensor, bias_O: Tensor, gradient_NOHW: Tensor
) -> list[Callable[[], object]]:
    """Return each pass by oneDNN."""
    return [
        lambda: F.conv2d(x_NCHW, weight_OCij, bias_O, padding=_padding(weight_OCij)),
        lambda: _by_onednn(gradient_NOHW, x_NCHW, weight_OCij, [True, False, False]),
        lambda: _by_onednn(gradient_NOHW, x_NCHW, weight_OCij, [False, True, True]),
    ]


def product_passes(
    x_NCHW: Tensor, weight_OCij: Tensor, bias_O: Tensor, gradient_NOHW: Tensor
) -> list[Callable[[], object]]:
    """Return each pass as a matrix product."""
    return [
        lambda: _forward(x_NCHW, weight_OCij, bias_O),
        lambda: _input_gradient(gradient_NOHW, x_NCHW, weight_OCij),
        lambda: (_weight_gradient(gradient_NOHW, x_NCHW, weight_OCij), gradient_NOHW.sum((0, 2, 3))),
    ]
