"""The training adversary: its ball, its limits, and eq. 1 followed image by image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from puzzle_study.detectors.puzzle_ae.adversary import perturb
from puzzle_study.detectors.puzzle_ae.settings import Adversary

from . import reference
from .tiny import examples

ROUNDING = 1e-6


def network(seed: int = 0) -> nn.Module:
    """A smooth network in float64, none of whose gradients is zero by chance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 1, 3, padding=1))
    return layers.double()


def puzzles(seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Puzzles in [low, high], float64."""
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(3, 1, 6, 6, dtype=torch.float64, generator=generator)


@st.composite
def adversaries(draw: st.DrawFn) -> Adversary:
    """Any adversary: small and large ε, steps inside the ball and far beyond it."""
    return Adversary(
        method=draw(st.sampled_from(["fgsm", "pgd", "none"])),
        epsilon=draw(st.floats(0, 1)),
        alpha=draw(st.floats(1e-4, 10)),
        steps=draw(st.integers(1, 4)),
        noise=draw(st.sampled_from(["once", "twice"])),
        target=draw(st.sampled_from(["clean", "noisy"])),
    )


@examples(50)
@given(adversary=adversaries(), seed=st.integers(0, 1000))
def test_the_input_stays_in_its_ball_and_in_the_range_of_pixels(adversary: Adversary, seed: int) -> None:
    clean = puzzles(seed)
    found = perturb(clean, network(), adversary, generator=torch.Generator().manual_seed(seed))
    assert found.shape == clean.shape
    assert not found.requires_grad
    assert 0 <= found.min() <= found.max() <= 1
    bound = 0.0 if adversary.method == "none" else adversary.epsilon * (2 if adversary.noise == "twice" else 1)
    assert (found - clean).abs().max() <= bound + ROUNDING


@examples(50)
@given(adversary=adversaries().filter(lambda a: a.method != "none" and a.epsilon > 1e-3), seed=st.integers(0, 1000))
def test_the_adversary_equals_the_reference(adversary: Adversary, seed: int) -> None:
    clean, answer = puzzles(seed), network(seed)
    found = perturb(clean, answer, adversary, generator=torch.Generator().manual_seed(seed))
    noise = torch.empty_like(clean).uniform_(
        -adversary.epsilon, adversary.epsilon, generator=torch.Generator().manual_seed(seed)
    )
    expected = reference.adversarial(
        clean,
        answer,
        noise,
        epsilon=adversary.epsilon,
        alpha=adversary.alpha,
        steps=adversary.steps if adversary.method == "pgd" else 1,
        noise=adversary.noise,
        target=adversary.target,
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@examples(40)
@given(epsilon=st.floats(0.01, 0.2), factor=st.floats(2, 20), seed=st.integers(0, 1000))
def test_fgsm_with_a_step_of_two_epsilon_or_more_is_epsilon_times_sign(
    epsilon: float, factor: float, seed: int
) -> None:
    clean, answer = puzzles(seed, low=0.25, high=0.75), network(seed)

    def found(alpha: float) -> Tensor:
        adversary = Adversary(epsilon=epsilon, alpha=alpha)
        return perturb(clean, answer, adversary, generator=torch.Generator().manual_seed(seed))

    change = found(min(factor * epsilon, 10)) - clean
    torch.testing.assert_close(change.abs(), torch.full_like(change, epsilon), rtol=0, atol=1e-12)
    torch.testing.assert_close(change, found(10) - clean, rtol=0, atol=1e-12)


def test_fgsm_makes_the_networks_answer_worse_than_its_start_noise_does() -> None:
    clean, answer = puzzles(low=0.3, high=0.7), network()
    found = perturb(clean, answer, Adversary(epsilon=0.1), generator=torch.Generator().manual_seed(0))
    noise = torch.empty_like(clean).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        distances = [(answer(x) - clean).square().sum((1, 2, 3)) for x in (found, clean + noise)]
    assert (distances[0] > distances[1]).all()


@pytest.mark.parametrize("values", [{"method": "none"}, {"epsilon": 0.0}])
def test_without_a_perturbation_the_puzzle_is_returned_and_nothing_is_drawn(values: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    clean = puzzles()
    assert torch.equal(perturb(clean, network(), Adversary(**values), generator=generator), clean)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
@pytest.mark.parametrize("noise", ["once", "twice"])
def test_no_gradient_stays_on_a_weight_and_the_puzzles_stay_as_they_were(method: str, noise: str) -> None:
    clean, answer = puzzles(), network()
    before = clean.clone()
    adversary = Adversary.model_validate({"method": method, "noise": noise})
    perturb(clean, answer, adversary, generator=torch.Generator().manual_seed(0))
    assert all(weight.grad is None for weight in answer.parameters())
    assert torch.equal(clean, before)


def test_fractions_of_255_may_be_written() -> None:
    assert Adversary.model_validate({"epsilon": "8/255"}).epsilon == 8 / 255
