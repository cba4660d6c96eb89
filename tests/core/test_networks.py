"""The U-Net and the discriminator: size, shapes, initialisation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from benchmarks.reference import PlainUNet
from puzzle_study.detectors.puzzle_ae.networks import (
    Discriminator,
    UNet,
    initialise_discriminator,
    initialise_unet,
    place,
)

SIDES = (16, 18, 28, 30, 32, 128)


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_the_unet_has_17_million_parameters_at_base_64(channels: int) -> None:
    with torch.device("meta"):
        assert count(UNet(channels=channels, base_channels=64)) / 1e6 == pytest.approx(17.3, abs=0.05)


def test_the_unet_has_no_batch_norm() -> None:
    assert not [module for module in UNet(channels=1, base_channels=2).modules() if "Norm" in type(module).__name__]


@pytest.mark.parametrize("shape", [*((side, side) for side in (*SIDES, 17, 31, 100)), (16, 45)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_unet_returns_the_shape_of_its_input(shape: tuple[int, int], channels: int) -> None:
    x_NCHW = torch.rand(2, channels, *shape)
    assert UNet(channels=channels, base_channels=1)(x_NCHW).shape == x_NCHW.shape


def he_unet(base_channels: int) -> UNet:
    """A U-Net in which signals neither die nor explode, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(channels=1, base_channels=base_channels)
        initialise_unet(network, "he")
    return network


def test_every_weight_of_the_unet_matters() -> None:
    network = he_unet(4)
    network(torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


@pytest.mark.parametrize("side", [16, 28, 30])
def test_each_corner_of_the_answer_sees_the_opposite_corner_of_the_image(side: int) -> None:
    """Or pieces could not be put back where they belong."""
    network = he_unet(8)
    x = torch.rand(4, 1, side, side, generator=torch.Generator().manual_seed(0), requires_grad=True)
    near, far = slice(0, 4), slice(side - 4, side)
    for rows, columns, other_rows, other_columns in [(near, near, far, far), (far, near, near, far)]:
        (gradient,) = torch.autograd.grad(network(x)[..., rows, columns].sum(), x)
        assert gradient[..., other_rows, other_columns].abs().sum() > 0


@pytest.mark.parametrize("side", [16, 28, 30, 48, 64])
def test_a_placed_unet_gives_the_answers_and_gradients_of_a_plain_one(side: int) -> None:
    plain = PlainUNet(channels=1, base_channels=4)
    plain.load_state_dict(he_unet(4).state_dict())
    placed = place(he_unet(4), torch.device("cpu"), side=side)

    def results(network: nn.Module) -> list[Tensor]:
        x = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0), requires_grad=True)
        answer = network(x)
        return [answer, *torch.autograd.grad(answer.square().sum(), [x, *network.parameters()])]

    for found, expected in zip(results(placed), results(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "deep_last"), [(16, False), (32, False), (48, True), (128, True)])
def test_only_blocks_on_a_few_pixels_are_laid_out_channel_by_channel(side: int, deep_last: bool) -> None:
    network = place(UNet(channels=1, base_channels=2), torch.device("cpu"), side=side)
    deep = {weight for block in network.deep for weight in block.parameters()}
    for weight in network.parameters():
        if weight.ndim == 4 and weight.shape[1] > 1 and weight.shape[2] > 1:
            channels_last = weight.is_contiguous(memory_format=torch.channels_last)
            assert channels_last == (deep_last or weight not in deep)


@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [
        *((side, side, channels) for side in SIDES for channels in (1, 3)),
        *((*sides, 1) for sides in itertools.product((16, 17, 20, 24, 28, 32, 48, 64), repeat=2)),
        *((16, 256, 1), (21, 27, 1)),
    ],
)
def test_the_discriminator_gives_a_feature_map_and_a_logit_that_depends_on_all_of_it(
    height: int, width: int, channels: int
) -> None:
    network = Discriminator(channels=channels, base_channels=2, height=height, width=width)
    features, logits = network(torch.rand(3, channels, height, width))
    assert features.shape[:1] == logits.shape == (3,)
    assert features.shape[1] >= 4 * 2
    assert 2 <= max(features.shape[2:]) <= 7
    assert network.classifier.weight.shape[2:] == features.shape[2:]
    torch.testing.assert_close(logits, (features * network.classifier.weight).sum((1, 2, 3)))
    (features.square().sum() + logits.sum()).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())


def test_he_weights_are_normal_with_zero_biases_and_a_small_last_layer() -> None:
    network = UNet(channels=1, base_channels=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initialise_unet(network, "he")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            scale = 0.1 if name == "head" else 1.0
            few = module.weight.numel() < 200
            assert module.weight.std().item() == pytest.approx(scale * (2 / fan_in) ** 0.5, rel=0.5 if few else 0.1)
            assert module.bias is not None
            assert module.bias.eq(0).all()


def test_default_initialisation_leaves_pytorchs() -> None:
    network = UNet(channels=1, base_channels=2)
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    initialise_unet(network, "default")
    assert all(torch.equal(weight, before[name]) for name, weight in network.named_parameters())


def test_the_discriminator_starts_as_dcgan() -> None:
    network = Discriminator(channels=1, base_channels=32, height=32, width=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initialise_discriminator(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
            assert module.bias.eq(0).all()
