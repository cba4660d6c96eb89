"""Weights in 16 bits for a step have autocast's numbers, and the network's own weights are back afterwards."""

from __future__ import annotations

import pytest
import torch

from puzzle_study.detectors.puzzle_ae.casts import Casts
from puzzle_study.detectors.puzzle_ae.networks import UNet

from . import tiny


def network() -> UNet:
    return tiny.trainer(tiny.settings({"model.base_channels": 4, "model.initialisation": "he"})).network


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_are_those_of_autocast_and_parts_are_summed_in_float32(dtype: torch.dtype) -> None:
    ours, reference, parts = network(), network(), tiny.float_images(8).split(4)
    casts = Casts(ours, dtype)
    for x_NCHW in parts:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            expected = reference(x_NCHW)
            with casts.in_place():
                answer = ours(x_NCHW)
                assert all(weight.dtype == dtype for weight in ours.parameters())
        assert torch.equal(answer, expected)
        answer.float().square().sum().backward()
        expected.float().square().sum().backward()
        casts.gather()
    for weight, other in zip(ours.parameters(), reference.parameters(), strict=True):
        assert weight.grad is not None
        assert other.grad is not None
        assert weight.grad.dtype == torch.float32
        assert weight.grad.stride() == weight.stride(), "the optimiser's kernel pairs numbers by their place in memory"
        assert torch.equal(weight.grad, other.grad)


def test_weights_are_back_after_a_step_that_failed() -> None:
    ours = network()
    before = list(ours.parameters())
    with pytest.raises(KeyError), Casts(ours, torch.bfloat16).in_place():
        raise KeyError
    assert all(one is other for one, other in zip(ours.parameters(), before, strict=True))
