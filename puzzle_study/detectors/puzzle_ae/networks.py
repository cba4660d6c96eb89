"""The U-Net without batch norm and the DCGAN discriminator (paper, section 4.1)."""

from __future__ import annotations

from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puzzle_study.detectors import kernels
from puzzle_study.detectors.convolution import Convolution
from puzzle_study.detectors.devices import Precision, autocast

Network = TypeVar("Network", bound=nn.Module)
LEVELS = 4
# oneDNN convolves maps with at most this many pixels a side up to 1.7 times faster channel by channel.
FEW_PIXELS = 4
HE_OUTPUT_SCALE = 0.1
# The largest slope of a puzzle whose gradient is 0, or as good as 0.
LEAST_SLOPE = 1e-30


class DoubleConvolution(nn.Sequential):
    """Two 3×3 convolutions with ReLU, without batch norm."""

    def __init__(self, inputs: int, outputs: int, *, between: int | None = None) -> None:
        between = between or outputs
        super().__init__(
            Convolution(inputs, between, 3, padding=1),
            nn.ReLU(inplace=True),
            Convolution(between, outputs, 3, padding=1),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """U-Net of Ronneberger et al. without batch norm: four downsamplings, bilinear upsampling, linear output.

    Each block's input is converted to its weights' memory layout (:func:`place`).

    Args:
        channels: channels of the image, in and out.
        base_channels: channels of the first level; they double at each of the first three downsamplings.

    Input and output have shape [N, C, H, W]; H and W are at least 16.

    Attributes:
        members: how many networks run side by side as grouped convolutions (:func:`fused.widened`); their channels
            stand one after the other.
    """

    members = 1

    def __init__(self, *, channels: int, base_channels: int = 64) -> None:
        super().__init__()
        width = [base_channels * factor for factor in (1, 2, 4, 8, 8)]
        self.stem = DoubleConvolution(channels, width[0])
        self.down = nn.ModuleList(DoubleConvolution(width[i], width[i + 1]) for i in range(LEVELS))
        self.up = nn.ModuleList(
            DoubleConvolution(2 * joined, outputs, between=joined)
            for joined, outputs in zip(
                reversed(width[:LEVELS]), (*reversed(width[: LEVELS - 1]), width[0]), strict=True
            )
        )
        self.head = nn.Conv2d(width[0], channels, 1)

    @property
    def deep(self) -> tuple[nn.Module, ...]:
        """The blocks on maps of an eighth and a sixteenth of the image's side."""
        return self.down[2], self.down[3], self.up[0]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the reconstruction, shape [N, C, H, W]."""
        skips = [self.stem(x_NCHW)]
        for block in self.down:
            skips.append(block(_laid_out(F.max_pool2d(skips[-1], 2), _layout(block))))
        y = skips.pop()
        for block in self.up:
            skip, layout = skips.pop(), _layout(block)
            y = F.interpolate(_laid_out(y, layout), scale_factor=2, mode="bilinear", align_corners=True)
            if y.requires_grad:
                # Its gradient is a slice of the concatenation's, which PyTorch's backward pass handles slowly.
                y.register_hook(partial(_laid_out, layout=layout))
            bottom, right = skip.shape[-2] - y.shape[-2], skip.shape[-1] - y.shape[-1]
            if bottom or right:
                y = F.pad(y, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
            y = block(self._joined(skip, y))
        return cast(Tensor, self.head(y))

    def _joined(self, skip: Tensor, y: Tensor) -> Tensor:
        """Return each member's channels of both maps one after the other."""
        if self.members == 1:
            return torch.cat((skip, y), dim=1)
        apart = [maps.unflatten(1, (self.members, -1)) for maps in (skip, y)]
        return torch.cat(apart, dim=2).flatten(1, 2)


class Discriminator(nn.Module):
    """DCGAN discriminator for images of at least 16×16 pixels, square or not.

    Strided convolutions halve both sides until the larger one has at most 7 pixels. The last feature map is
    the intermediate layer f_D of eq. 3, and a convolution over it gives the logit.

    Args:
        channels: channels of the image.
        base_channels: channels of the first level.
        height: image height in pixels, including padding.
        width: image width, likewise.

    Attributes:
        members: how many networks run side by side, as in :class:`UNet`.
    """

    members = 1

    def __init__(self, *, channels: int, base_channels: int = 64, height: int, width: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(channels, base_channels, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        features, left = base_channels, (height // 2, width // 2)
        while max(left) > 7 or features < 4 * base_channels:
            blocks += [_halving(features, left), nn.BatchNorm2d(2 * features), nn.LeakyReLU(0.2)]
            features, left = 2 * features, (max(left[0] // 2, 1), max(left[1] // 2, 1))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Conv2d(features, 1, left, bias=False)

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the feature map f_D, [N, F, h, w], and the logit of being real, [N]; of M members [N, M]."""
        features = self.features(x_NCHW)
        logit_NM = self.classifier(features).flatten(2).mean(2)
        return features, logit_NM.squeeze(1) if self.members == 1 else logit_NM


def _halving(features: int, left: tuple[int, int]) -> nn.Conv2d:
    """A strided convolution to twice the features; a side that is already one pixel stays so."""
    kernel, stride, padding = zip(*((4, 2, 1) if side > 1 else (1, 1, 0) for side in left), strict=True)
    return nn.Conv2d(features, 2 * features, kernel, stride, padding, bias=False)


def place(network: Network, device: torch.device, *, side: int) -> Network:
    """Move a network to a device, with weights in the fastest layouts there.

    That is channels-last, except for the deep blocks of a U-Net on a CPU if their maps have only a few pixels.

    Args:
        network: U-Net or discriminator.
        device: where to move it.
        side: larger side of its images in pixels, including padding.
    """
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if isinstance(network, UNet) and device.type == "cpu" and side // 8 <= FEW_PIXELS:
        for block in network.deep:
            block.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network


def choose_kernels(network: UNet, *, height: int, width: int, precision: Precision) -> None:
    """Give a placed network the kernels that are the fastest on this CPU; on a GPU, nothing is done.

    Args:
        network: on its device.
        height: of its images in pixels, including padding.
        width: likewise.
        precision: arithmetic of its convolutions.
    """
    if network.head.weight.device.type != "cpu":
        return
    levels = [network.stem, *network.down], [*network.up]
    for level, block in [*enumerate(levels[0]), *zip(reversed(range(LEVELS)), levels[1], strict=True)]:
        both = [each for each in cast(nn.Sequential, block) if isinstance(each, Convolution)]
        kernels.choose(both, height >> level, width >> level, precision)


def reconstruct(network: UNet, puzzle_NCHW: Tensor, precision: Precision) -> Tensor:
    """Return a U-Net's reconstructions of puzzles, float32, same shape, computed in a precision.

    float16 has no numbers below 6e-8. So a gradient that goes back to the puzzles travels at about the size of 1,
    puzzle by puzzle, and has its own size again at the end. Gradients of weights have not: ask for them in another
    pass, in which the puzzles need none, with a scaled loss.
    """
    scaled = precision == "float16" and puzzle_NCHW.requires_grad and torch.is_grad_enabled()
    entered_NCHW = puzzle_NCHW.view_as(puzzle_NCHW) if scaled else puzzle_NCHW
    with autocast(puzzle_NCHW.device, precision):
        reconstruction: Tensor = network(entered_NCHW.contiguous(memory_format=torch.channels_last))
    reconstruction = reconstruction.float()
    if scaled:
        _scale_between(entered_NCHW, reconstruction, network.members)
    return reconstruction


def _scale_between(entered_NCHW: Tensor, left_NCHW: Tensor, members: int) -> None:
    """Let the gradient of each image, of each member, have a largest size near 1 on its way through the network."""
    scale_NM111 = torch.empty(0)

    def enlarge(slope_NCHW: Tensor) -> Tensor:
        nonlocal scale_NM111
        slope_NMCHW: Tensor = slope_NCHW.unflatten(1, (members, -1))
        largest_NM111 = slope_NMCHW.abs().amax((2, 3, 4), keepdim=True).clamp_min(LEAST_SLOPE)
        scale_NM111 = largest_NM111.log2().ceil().neg().exp2()  # a power of two rounds nothing
        return (slope_NMCHW * scale_NM111).flatten(1, 2)

    def restore(slope_NCHW: Tensor) -> Tensor:
        slope_NMCHW: Tensor = slope_NCHW.unflatten(1, (members, -1))
        return (slope_NMCHW / scale_NM111).flatten(1, 2)

    left_NCHW.register_hook(enlarge)
    entered_NCHW.register_hook(restore)


def _layout(block: nn.Module) -> torch.memory_format:
    weight = cast(Tensor, block[0].weight)  # type: ignore[index]
    channels_last = weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def _laid_out(x_NCHW: Tensor, layout: torch.memory_format) -> Tensor:
    return x_NCHW.contiguous(memory_format=layout)


def initialise_unet(network: UNet, how: str) -> None:
    """Keep PyTorch's default, or draw He normal weights with zero biases and the output layer × 0.1."""
    if how == "he":
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            network.head.weight.mul_(HE_OUTPUT_SCALE)


def initialise_discriminator(network: Discriminator) -> None:
    """Draw DCGAN's weights: N(0, 0.02) for convolutions, N(1, 0.02) for batch norm."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
