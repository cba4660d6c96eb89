"""ARAE: an autoencoder trained so that an adversary cannot move its code (Salehi et al. 2020).

Layers, losses, rates and the numbers for each data set are those of the authors' code. Differences:

- Each batch is attacked with the current weights, as in the paper. The code attacks all images of an epoch with
  the weights at its start.
- CIFAR-10 and other sets without the authors' numbers use MNIST's, with the ε of the other natural images.

Shape legend: N images, C channels, H and W pixels, Z numbers of the code.
"""

from __future__ import annotations

import itertools
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from puzzle_study.config.types import MOST_EPOCHS, Costs, Images, Layer, Perturbation, Section, unit
from puzzle_study.detectors.base import Shape
from puzzle_study.detectors.epochs import Train, TrainedSettings
from puzzle_study.detectors.rebuilding import Rebuilding

STEP = 2.5
"""Total size of the attack's steps, in units of ε."""
MOST_CODE = 1024


class RobustAdversary(Section):
    """How images are perturbed so that their code moves (PGD from a random start)."""

    epsilon: Perturbation = Field(0.2, description="Bound of the perturbation, pixels in [0, 1]; 8/255 may be written.")
    steps: int = Field(
        40,
        ge=1,
        le=100,
        json_schema_extra=unit("steps"),
        description="Steps of PGD, each of 2.5 · ε / steps.",
    )


class RobustTrain(Train):
    """The training."""

    epochs: int = Field(
        1600, ge=0, le=MOST_EPOCHS, json_schema_extra=unit("epochs"), description="Passes over the images."
    )
    batch_size: int = Field(256, ge=1, le=4096, json_schema_extra=unit("images"), description="Images in a step.")
    gamma: float = Field(
        0.1,
        ge=0,
        le=100,
        json_schema_extra=unit("–"),
        description="γ, weight of the squared distance between the codes of an image and of its perturbed copy.",
    )
    adversary: RobustAdversary = Field(RobustAdversary(), description="Perturbation of the images in training.")


class RobustModel(Section):
    """The dense autoencoder."""

    code: int = Field(
        128,
        ge=1,
        le=MOST_CODE,
        json_schema_extra=unit("numbers"),
        description="Numbers in the bottleneck; the layers before it have four times and twice as many.",
    )
    activation: Literal["sigmoid", "relu"] = Field(
        "sigmoid",
        description="After each layer; `relu`, with a linear output, is the authors' code for other attacks "
        "and learns in far fewer epochs.",
    )


NATURAL: Layer = {"train": {"adversary": {"epsilon": 0.05}}}


class RobustSettings(TrainedSettings):
    """The authors' settings for MNIST, Fashion-MNIST and COIL-100."""

    DATASETS: ClassVar[dict[str, Layer]] = {
        "digits": {"preset": "fast"},
        "fashion_mnist": {"train": {"epochs": 8000, "adversary": {"epsilon": 0.05}}},
        "coil100": {"train": {"epochs": 1000, "batch_size": 16, "adversary": {"epsilon": 0.05, "steps": 20}}},
        "cifar10": NATURAL,
        "mvtec": NATURAL,
        "head_ct": NATURAL,
        "brain_mri": NATURAL,
        "folder": NATURAL | {"preset": "fast"},
    }
    PRESETS: ClassVar[dict[str, Layer]] = {
        "paper": {},
        "fast": {
            "model": {"activation": "relu"},
            "train": {"epochs": 20, "batch_size": 64, "adversary": {"steps": 5}},
        },
    }
    ALONG: ClassVar[tuple[str, ...]] = ("train.epochs",)
    BUDGET: ClassVar[tuple[str, ...]] = ("train.epochs", "train.adversary.steps")
    SMALL: ClassVar[Layer] = {
        "model": {"code": 32},
        "train": {"epochs": 12, "batch_size": 8, "learning_rate": 5e-3, "adversary": {"steps": 3}},
    }
    LARGE: ClassVar[tuple[str, ...]] = ("train.batch_size", "model.code")

    train: RobustTrain = Field(RobustTrain(), description="The training.")
    model: RobustModel = Field(RobustModel(), description="The network.")

    def costs(self, images: Images) -> Costs:
        """Return a trial's costs, from the layers' multiply-adds."""
        inputs, code = images.pixels * images.channels, self.model.code
        encode = float(inputs * 4 * code + 4 * code * 2 * code + 2 * code * code)
        # Forward and back to the image in each step, and training both halves on two images' codes.
        return Costs(fit=0.0, epoch=(2 * self.train.adversary.steps + 9) * encode, score=2 * encode)


class DenseAutoencoder(nn.Module):
    """Three dense layers down to a code and three back.

    Args:
        shape: of the images.
        model: numbers in the bottleneck, and the activation after each layer.
    """

    def __init__(self, shape: Shape, model: RobustModel) -> None:
        super().__init__()
        pixels, code = shape.channels * shape.height * shape.width, model.code
        down = _dense(model.activation, pixels, 4 * code, 2 * code, code)
        up = _dense(model.activation, code, 2 * code, 4 * code, pixels)
        if model.activation == "relu":
            up.pop()
        self.encoder = nn.Sequential(nn.Flatten(), *down)
        self.decoder = nn.Sequential(*up, nn.Unflatten(1, (shape.channels, shape.height, shape.width)))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the reconstructed images, [N, C, H, W]."""
        return cast(Tensor, self.decoder(self.encoder(x_NCHW)))


def _dense(activation: str, *widths: int) -> list[nn.Module]:
    """Return dense layers with Glorot's normal weights and zero biases, and their activations."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layer = nn.Linear(inputs, outputs)
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.Sigmoid() if activation == "sigmoid" else nn.ReLU()]
    return layers


class ARAE(Rebuilding):
    """An image's error is its mean square difference from its reconstruction by a robust autoencoder."""

    name = "arae"
    title = "ARAE"
    source = (
        "Salehi, Arya, Pajoum, Otoofi, Shaeiri, Rohban, Rabiee 2020: ARAE: Adversarially Robust Training of "
        "Autoencoders Improves Novelty Detection"
    )
    Settings = RobustSettings
    Model = RobustModel

    @classmethod
    def network_for(cls, model: RobustModel, shape: Shape) -> DenseAutoencoder:
        """Return the untrained network."""
        return DenseAutoencoder(shape, model)

    def losses(self, x_NCHW: Tensor, settings: RobustSettings, generator: Generator) -> dict[str, Tensor]:
        """Return the distance of perturbed images' reconstructions to the clean images, and the shift of their code."""
        encoder, decoder = cast(nn.Module, self.network.encoder), cast(nn.Module, self.network.decoder)
        how = settings.train
        moved_NZ = encoder(perturb(encoder, x_NCHW, how.adversary, generator))
        distance = (moved_NZ - encoder(x_NCHW)).square().mean()
        return {
            "loss_rec": self.differences(x_NCHW, decoder(moved_NZ)).mean(),
            "loss_latent": how.gamma * distance,
        }


def perturb(encoder: nn.Module, x_NCHW: Tensor, adversary: RobustAdversary, generator: Generator) -> Tensor:
    """Return images in [0, 1] within ε of the given ones whose codes are far away.

    The gradient is taken at the clipped image; the step is added to the perturbation before clipping, as in the code.
    """
    epsilon, step = adversary.epsilon, STEP * adversary.epsilon / adversary.steps
    with torch.no_grad():
        code_NZ = encoder(x_NCHW)
    delta_NCHW = torch.empty_like(x_NCHW).uniform_(-epsilon, epsilon, generator=generator)
    for _ in range(adversary.steps):
        leaf_NCHW = (x_NCHW + delta_NCHW).clamp_(0, 1).requires_grad_()
        (slope_NCHW,) = torch.autograd.grad((encoder(leaf_NCHW) - code_NZ).square().sum(), leaf_NCHW)
        delta_NCHW = (delta_NCHW + step * slope_NCHW.sign()).clamp_(-epsilon, epsilon)
    return (x_NCHW + delta_NCHW).clamp_(0, 1)
