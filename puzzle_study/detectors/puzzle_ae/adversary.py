"""The training adversary: perturbations of puzzles within a ball (paper, eq. 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from puzzle_study.detectors.memory import AtOnce, halving_or_raise
from puzzle_study.detectors.puzzle_ae.settings import Adversary


def perturb(
    puzzle_NCHW: Tensor,
    reconstruct: Callable[[Tensor], Tensor],
    adversary: Adversary,
    *,
    generator: torch.Generator,
    at_once: AtOnce | None = None,
) -> Tensor:
    """Return the network's training input: the puzzle plus δ of eq. 1, kept in [0, 1].

    With ``noise: once`` (paper) the result differs from the puzzle by at most ε; with ``noise: twice`` (the
    authors' code) the start noise stays in the input and the bound is 2ε.

    Args:
        puzzle_NCHW: clean puzzles f(x̃) in [0, 1].
        reconstruct: the network; only the gradients of its input are computed.
        adversary: method, ε, α, steps, and where the authors' code differs.
        generator: source of the start noise, on the puzzles' device.
        at_once: how many puzzles are in memory together, halved if memory runs out; None: all of them.
    """
    if adversary.method == "none" or adversary.epsilon == 0:
        return puzzle_NCHW
    delta = start_noise(puzzle_NCHW, adversary, generator)
    return ascended(
        puzzle_NCHW,
        delta,
        reconstruct,
        adversary,
        epsilon=adversary.epsilon,
        alpha=adversary.alpha,
        at_once=at_once or AtOnce(len(puzzle_NCHW)),
    )


def start_noise(puzzle_NCHW: Tensor, adversary: Adversary, generator: torch.Generator) -> Tensor:
    """Return the perturbation from which the adversary starts."""
    return torch.empty_like(puzzle_NCHW).uniform_(-adversary.epsilon, adversary.epsilon, generator=generator)


def ascended(
    puzzle_NCHW: Tensor,
    delta: Tensor,
    reconstruct: Callable[[Tensor], Tensor],
    adversary: Adversary,
    *,
    epsilon: Any,
    alpha: Any,
    at_once: AtOnce,
) -> Tensor:
    """Return the training input after the adversary's steps; ε and α are numbers, or tensors [1, C, 1, 1]."""
    noisy = puzzle_NCHW + delta
    start = noisy.clamp(0, 1) if adversary.noise == "twice" else puzzle_NCHW
    # As in the authors' code, the target is the noisy puzzle, which may leave [0, 1].
    target = noisy if adversary.target == "noisy" else puzzle_NCHW
    for step in range(adversary.steps if adversary.method == "pgd" else 1):
        attacked = start if step == 0 and adversary.noise == "twice" else start + delta
        gradient = _gradient(attacked.detach(), target, reconstruct, at_once)
        delta = (delta + alpha * gradient.sign()).clamp_(-epsilon, epsilon)
    return (start + delta).clamp_(0, 1)


def _gradient(
    attacked_NCHW: Tensor, target_NCHW: Tensor, reconstruct: Callable[[Tensor], Tensor], at_once: AtOnce
) -> Tensor:
    """Return the gradient of the squared error with respect to each puzzle; puzzles do not depend on each other."""
    done, found = 0, list[Tensor]()

    def some() -> Tensor:
        part = slice(done, done + at_once.count)
        leaf_nCHW = attacked_NCHW[part].requires_grad_()
        loss = (reconstruct(leaf_nCHW) - target_NCHW[part]).square().sum()
        (gradient_nCHW,) = torch.autograd.grad(loss, leaf_nCHW)
        return gradient_nCHW

    while done < len(attacked_NCHW):
        found.append(halving_or_raise(at_once, some))
        done += len(found[-1])
    return torch.cat(found) if len(found) > 1 else found[0]
