"""Slow, obvious second implementations of the method, which the package is held against.

Written from section 3 of the paper and from what is known of the authors' code, image by image and piece by piece.
Nothing here calls the package's puzzles, adversary, losses, scores or trainer; networks are passed in.

Shape legend: C channels, H and W pixels, g pieces a side; a batch is a list of images or a tensor [N, C, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Network = Callable[[Tensor], Tensor]


# Puzzles (section 3.1)


def padded(x_CHW: Tensor, grid: int) -> Tensor:
    """Copy the image pixel by pixel onto a black canvas whose sides are multiples of the grid."""
    channels, height, width = x_CHW.shape
    canvas = torch.zeros(channels, math.ceil(height / grid) * grid, math.ceil(width / grid) * grid, dtype=x_CHW.dtype)
    for row in range(height):
        for column in range(width):
            canvas[:, row, column] = x_CHW[:, row, column]
    return canvas


def piece(x_CHW: Tensor, grid: int, number: int) -> Tensor:
    """Cut out piece ``number``, counted row by row."""
    _, height, width = x_CHW.shape
    h, w = height // grid, width // grid
    row, column = divmod(number, grid)
    return x_CHW[:, row * h : (row + 1) * h, column * w : (column + 1) * w]


def jigsaw(x_CHW: Tensor, grid: int, permutation: Sequence[int]) -> Tensor:
    """Lay piece π(p) at position p, for every position."""
    puzzle = torch.empty_like(x_CHW)
    for position, number in enumerate(permutation):
        piece(puzzle, grid, position).copy_(piece(x_CHW, grid, number))
    return puzzle


def solved_jigsaw(puzzle_CHW: Tensor, grid: int, permutation: Sequence[int]) -> Tensor:
    """Put what lies at position p back to where piece π(p) belongs."""
    x_CHW = torch.empty_like(puzzle_CHW)
    for position, number in enumerate(permutation):
        piece(x_CHW, grid, number).copy_(piece(puzzle_CHW, grid, position))
    return x_CHW


def quarter_turned(x_CHW: Tensor, turns: int) -> Tensor:
    """Turn a square image counter-clockwise by 90 degrees, ``turns`` times, pixel by pixel."""
    for _ in range(turns):
        side = x_CHW.shape[-1]
        turned = torch.empty_like(x_CHW)
        for row in range(side):
            for column in range(side):
                turned[:, side - 1 - column, row] = x_CHW[:, row, column]
        x_CHW = turned
    return x_CHW


def puzzle_of(x_CHW: Tensor, kind: str, grid: int, permutation: Sequence[int]) -> Tensor:
    """Make a jigsaw, or turn the image for Rot-AE, whose only number is the number of quarter turns."""
    if kind == "rotation":
        return quarter_turned(x_CHW, permutation[0])
    return jigsaw(x_CHW, grid, permutation)


def hidden(x_CHW: Tensor, grid: int, number: int, how: str) -> Tensor:
    """Paint one piece black, or gray by the plain mean over the channels."""
    x_CHW = x_CHW.clone()
    target = piece(x_CHW, grid, number)
    target.copy_(torch.zeros_like(target) if how == "black" else sum(target) / len(target) * torch.ones_like(target))
    return x_CHW


# The training adversary (eq. 1)


def adversarial(
    puzzle_NCHW: Tensor,
    network: Network,
    start_noise: Tensor,
    *,
    epsilon: float,
    alpha: float,
    steps: int,
    noise: str,
    target: str,
) -> Tensor:
    """Follow eq. 1 image by image: lines 2 and 3 once for FGSM, ``steps`` times for PGD; line 4 is kept in [0, 1].

    ``noise: twice`` and ``target: noisy`` are the authors' code: the network's input is the noised puzzle, to which
    a perturbation that contains the same noise is added again; the loss compares with the noised puzzle as it was
    before it was clamped, which their code changes in place.
    """
    results = []
    for puzzle, noise_of_image in zip(puzzle_NCHW, start_noise, strict=True):
        noised = torch.clamp(puzzle + noise_of_image, 0, 1)
        delta = noise_of_image
        base = noised if noise == "twice" else puzzle
        goal = puzzle + noise_of_image if target == "noisy" else puzzle
        for step in range(steps):
            first_of_authors = noise == "twice" and step == 0
            image = (noised if first_of_authors else base + delta).clone().requires_grad_(True)
            norm = torch.linalg.vector_norm(network(image[None])[0] - goal)
            norm.backward()
            assert image.grad is not None
            delta = delta + alpha * torch.sign(image.grad)
            delta = torch.maximum(
                torch.minimum(delta, torch.full_like(delta, epsilon)), torch.full_like(delta, -epsilon)
            )
        results.append(torch.clamp(base + delta, 0, 1).detach())
    return torch.stack(results)


# Losses (eqs. 2 to 4), mean squares as in the authors' code


def reconstruction_loss(solved_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
    """Mean over images of the mean square difference."""
    return torch.stack([((s - x) ** 2).mean() for s, x in zip(solved_NCHW, x_NCHW, strict=True)]).mean()


def feature_loss(real: Tensor, solved: Tensor, how: str) -> Tensor:
    """Mean square distance of each real feature map from its counterpart, or from the mean of all (eq. 3)."""
    mean_of_batch = sum(solved) / len(solved)
    terms = []
    for number in range(len(real)):
        other = mean_of_batch if how == "batch_mean" else solved[number]
        terms.append(((real[number] - other) ** 2).mean())
    return torch.stack(terms).mean()


def discriminator_loss(real_N: Tensor, solved_N: Tensor) -> Tensor:
    """Binary cross-entropy of real images as 1 plus that of reconstructions as 0, from logits."""
    real = [-torch.log(torch.sigmoid(logit)) for logit in real_N]
    solved = [-torch.log(1 - torch.sigmoid(logit)) for logit in solved_N]
    return torch.stack(real).mean() + torch.stack(solved).mean()


@dataclass(frozen=True)
class Step:
    """The three losses of a step."""

    loss_rec: float
    loss_adv: float
    loss_d: float


def training_step(
    input_NCHW: Tensor,
    x_NCHW: Tensor,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    discriminator: nn.Module | None,
    discriminator_optimiser: torch.optim.Optimizer | None,
    *,
    lambda_: float,
    how: str,
) -> Step:
    """One step with plain optimisers: full backward passes and, as in the authors' code, four discriminator passes.

    Both losses see the discriminator before its step: two passes for its own loss, two for feature matching. Batch
    norm is in training mode and normalises each pass by its own batch, so that the number of passes changes running
    means (which nothing ever reads) but no loss and no gradient.
    """
    solved_NCHW = network(input_NCHW)
    loss_rec = reconstruction_loss(solved_NCHW, x_NCHW)
    if discriminator is None or discriminator_optimiser is None:
        optimiser.zero_grad()
        loss_rec.backward()
        optimiser.step()
        return Step(loss_rec.item(), 0.0, 0.0)

    loss_adv = feature_loss(discriminator(x_NCHW)[0].detach(), discriminator(solved_NCHW)[0], how)
    loss_d = discriminator_loss(discriminator(x_NCHW)[1], discriminator(solved_NCHW.detach())[1])

    optimiser.zero_grad()
    (loss_rec + lambda_ * loss_adv).backward()
    optimiser.step()

    discriminator_optimiser.zero_grad()
    loss_d.backward()
    discriminator_optimiser.step()
    return Step(loss_rec.item(), loss_adv.item(), loss_d.item())


# The score (eqs. 5 to 7)


def puzzle_errors(
    x_CHW: Tensor, network: Network, kind: str, grid: int, permutations: Sequence[Sequence[int]], norm: str
) -> list[float]:
    """The K errors of one image: eq. 5 over the root of the number of values, or the mean square."""
    whole = padded(x_CHW, grid)
    errors = []
    for permutation in permutations:
        difference = network(puzzle_of(whole, kind, grid, permutation)[None])[0] - whole
        mean_square = sum(float(value) ** 2 for value in difference.flatten()) / difference.numel()
        errors.append(mean_square if norm == "mse" else math.sqrt(mean_square))
    return errors


def anomaly_score(errors: Sequence[float], validation: Sequence[Sequence[float]], aggregation: str) -> float:
    """Divide each error by the mean of its permutation over the validation images (eq. 6), then aggregate (eq. 7)."""
    normalised = []
    for k, error in enumerate(errors):
        of_permutation = [row[k] for row in validation]
        normalised.append(error / (sum(of_permutation) / len(of_permutation)))
    if aggregation == "min":
        return min(normalised)
    if aggregation == "max":
        return max(normalised)
    return sum(normalised) / len(normalised)
