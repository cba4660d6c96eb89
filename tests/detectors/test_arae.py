"""ARAE: its network, its adversary and its losses, held against the authors' code worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from puzzle_study.config import layers
from puzzle_study.detectors.arae import ARAE, DenseAutoencoder, RobustAdversary, RobustModel, RobustSettings, perturb
from puzzle_study.detectors.base import Context, Shape

from .building import weights

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float64]
EPSILON, STEPS = 0.1, 6


def test_the_network_has_the_published_number_of_weights() -> None:
    network = DenseAutoencoder(Shape(1, 28, 28), RobustModel())
    widths = (784, 512, 256, 128, 256, 512, 784)
    expected = sum(inputs * outputs + outputs for inputs, outputs in itertools.pairwise(widths))
    assert weights(network) == expected


@pytest.mark.parametrize(
    ("dataset", "epochs", "batch_size", "epsilon", "steps"),
    [("mnist", 1600, 256, 0.2, 40), ("fashion_mnist", 8000, 256, 0.05, 40), ("coil100", 1000, 16, 0.05, 20)],
)
def test_paper_is_the_authors_configuration(
    dataset: str, epochs: int, batch_size: int, epsilon: float, steps: int
) -> None:
    train = RobustSettings.model_validate(layers.resolved(RobustSettings, {}, dataset)).train
    found = (train.epochs, train.batch_size, train.adversary.epsilon, train.adversary.steps)
    assert found == (epochs, batch_size, epsilon, steps)
    assert (train.gamma, train.learning_rate, train.weight_decay) == (0.1, 1e-3, 0)


def test_own_images_start_with_fast() -> None:
    folder = RobustSettings.model_validate(layers.resolved(RobustSettings, {}, "folder"))
    assert folder.preset == "fast"
    assert folder.train.adversary.epsilon == 0.05
    assert folder.train.epochs < RobustSettings().train.epochs


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def encoded(x_ND: Array, weights: list[Array]) -> list[Array]:
    """The output of each dense layer with a sigmoid, the images first."""
    outputs = [x_ND]
    for weight in weights:
        outputs.append(sigmoid(outputs[-1] @ weight.T))
    return outputs


def attacked(x_ND: Array, start_ND: Array, weights: list[Array]) -> Array:
    """The authors' crafting of adversarial samples, with its gradient by hand."""
    latent_NZ = encoded(x_ND, weights)[-1]
    delta_ND = start_ND
    for _ in range(STEPS):
        outputs = encoded(np.clip(x_ND + delta_ND, 0, 1), weights)
        slope = 2 * (outputs[-1] - latent_NZ)
        for weight, output in zip(reversed(weights), reversed(outputs), strict=False):
            slope = (slope * output * (1 - output)) @ weight
        delta_ND = np.clip(delta_ND + 2.5 * EPSILON / STEPS * np.sign(slope), -EPSILON, EPSILON)
    return np.clip(x_ND + delta_ND, 0, 1)


def test_the_adversary_is_that_of_the_authors_code() -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = DenseAutoencoder(Shape(1, 16, 16), RobustModel(code=8)).double().encoder
    x_NCHW = torch.rand(3, 1, 16, 16, generator=generator, dtype=torch.float64)
    found = perturb(encoder, x_NCHW, RobustAdversary(epsilon=EPSILON, steps=STEPS), torch.Generator().manual_seed(1))
    start = torch.empty_like(x_NCHW).uniform_(-EPSILON, EPSILON, generator=torch.Generator().manual_seed(1))
    weights = [layer.weight.detach().numpy() for layer in encoder if isinstance(layer, nn.Linear)]
    expected = attacked(x_NCHW.flatten(1).numpy(), start.flatten(1).numpy(), weights)
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, atol=1e-9)


def test_the_losses_are_those_of_the_authors_code() -> None:
    settings = RobustSettings.model_validate({"model": {"code": 8}, "train": {"gamma": 0.7}})
    detector = ARAE.build(settings, Context(Shape(1, 16, 16), 2, torch.device("cpu"), "float32"))
    x_NCHW = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    losses = detector.losses(x_NCHW, settings, torch.Generator().manual_seed(1))
    network = detector.network
    assert isinstance(network, DenseAutoencoder)
    moved_NCHW = perturb(network.encoder, x_NCHW, settings.train.adversary, torch.Generator().manual_seed(1))
    clean_NZ, moved_NZ = network.encoder(x_NCHW), network.encoder(moved_NCHW)
    rebuilt = (network(moved_NCHW) - x_NCHW).flatten(1).square().mean(1)
    total = (rebuilt + 0.7 * (clean_NZ - moved_NZ).square().mean(1)).mean()
    torch.testing.assert_close(sum(losses.values()), total)
    assert float(losses["loss_latent"].detach()) > 0
