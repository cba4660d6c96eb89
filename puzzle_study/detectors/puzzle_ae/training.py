"""Training of the U-Net and its discriminator (paper, section 3.1 and 4.1), resumable at any epoch.

Shape legend: N images of a batch, C channels, H and W padded pixels, K permutations.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import swa_utils

from puzzle_study.detectors.base import Context, Run, Shape, TrainingDiverged, to_float
from puzzle_study.detectors.devices import autocast, convolving, dtype_of
from puzzle_study.detectors.memory import AtOnce, halving_or_raise
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.adversary import perturb
from puzzle_study.detectors.puzzle_ae.casts import Casts
from puzzle_study.detectors.puzzle_ae.networks import (
    Discriminator,
    UNet,
    choose_kernels,
    initialise_discriminator,
    initialise_unet,
    place,
    reconstruct,
)
from puzzle_study.detectors.puzzle_ae.rules import hidden_style
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings

# Pixels are in [0, 1], so even an image of zeros has a mean square error below 1: a larger loss will not recover.
DIVERGED = 1e6
# From PyTorch's 65,536 the first six steps of a training on digits were left out, because the discriminator's gradients
# overflow. At 1,024 they do not, and only gradients below 1e-9 are lost, which Adam's ε hides.
FIRST_SCALE = 1024.0
# The parts of a training's state besides its random generator.
COUNTS = ("epochs_done", "lowest_loss", "epochs_since_lowest")
PARTS = ("network", "averaged", "discriminator", "optimiser", "discriminator_optimiser", "plateau")


@dataclass(frozen=True)
class EpochLosses:
    """Means over the images of an epoch; ``loss_adv`` and ``loss_d`` are 0 without a discriminator."""

    epoch: int
    loss_rec: float
    loss_adv: float
    loss_d: float
    lr: float


class Trainer:
    """One training: networks, optimisers, schedule and random state.

    Args:
        settings: of Puzzle-AE.
        context: shape of the images before padding, seed, device, precision, and the task, which decides the puzzles.
    """

    def __init__(self, settings: PuzzleSettings, context: Context) -> None:
        train, device = settings.train, context.device
        self.settings, self.device, self.precision = train, device, context.precision
        self.per_batch = settings.puzzle.per_batch
        self.hide = hidden_style(settings.puzzle.hide, context.shape.channels)
        puzzle_set = puzzles.puzzle_set(settings.puzzle, normal_class=context.normal_class, dataset=context.dataset)
        self.grid = puzzle_set.grid
        height, width = (puzzles.padded_side(side, self.grid) for side in (context.shape.height, context.shape.width))
        self.puzzler = puzzles.Puzzler(puzzle_set, height=height, width=width, device=device)
        padded = Shape(context.shape.channels, height, width)
        self.network, self.discriminator = _networks(settings, padded, context.seed)
        side = max(height, width)
        place(self.network, device, side=side)
        choose_kernels(self.network, height=height, width=width, precision=context.precision)
        self.averaged: swa_utils.AveragedModel | None = None
        if train.averaging > 0:
            self.averaged = swa_utils.AveragedModel(self.network)
        self.averages = [] if self.averaged is None else [(self.averaged, train.averaging)]
        self.optimiser = torch.optim.Adam(
            self.network.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
        )
        self.discriminator_optimiser: torch.optim.Adam | None = None
        if self.discriminator is not None:
            place(self.discriminator, device, side=side)
            self.discriminator_optimiser = torch.optim.Adam(
                self.discriminator.parameters(), lr=train.discriminator_learning_rate, betas=(0.5, 0.999), fused=True
            )
        dtype = dtype_of(context.precision)
        self.casts, self.discriminator_casts = (
            Casts(self.network, dtype),
            Casts(self.discriminator or nn.Module(), dtype),
        )
        # Scales the losses in float16, which has few small numbers; the losses of other precisions pass unchanged.
        self.scaler = torch.amp.GradScaler(device.type, init_scale=FIRST_SCALE, enabled=context.precision == "float16")
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=train.plateau_factor, patience=train.plateau_patience, threshold=0.0
        )
        self.generator = torch.Generator(device).manual_seed(context.seed)
        self.at_once = AtOnce(train.batch_size)
        self.epochs_done = 0
        self.lowest_loss, self.epochs_since_lowest = math.inf, 0

    @property
    def solver(self) -> UNet:
        """The network that scores: the trained one, or the average of its weights (``train.averaging``)."""
        return self.network if self.averaged is None else cast(UNet, self.averaged.module)

    @torch.no_grad()
    def _average(self, averaged: swa_utils.AveragedModel, limit: float) -> None:
        """Move an average towards the weights.

        AveragedModel's own update copies its count to the device every time, and so waits for it.
        """
        means: list[Tensor] = list(averaged.module.parameters())
        weights: list[Tensor] = list(self.network.parameters())
        steps = int(averaged.n_averaged)  # on the CPU
        if steps == 0:
            torch._foreach_copy_(means, weights)
        else:
            torch._foreach_lerp_(means, weights, 1 - averaging_decay(limit, steps))
        averaged.n_averaged += 1

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or the loss has converged (``train.convergence_epochs``)."""
        patience = self.settings.convergence_epochs
        converged = patience is not None and self.epochs_since_lowest >= patience
        return converged or self.epochs_done >= self.settings.epochs

    def training(self, images_NCHW: Tensor, run: Run) -> Generator[Tensor, Tensor, None]:
        """Yield every batch of the rest of a training, and receive the three mean losses of the step by it."""
        if (state := run.resumed()) is not None:
            self.restore(state)
        while not self.finished:
            changed_NCHW = run.images(images_NCHW, self.epochs_done + 1)
            sums = torch.zeros(3, device=self.device)
            for x_NCHW in self.batches(changed_NCHW):
                losses = yield x_NCHW
                sums += losses * len(x_NCHW)
            row = asdict(self.ended(sums / len(changed_NCHW)))
            run.epoch(row, self.state, last=self.finished)

    def epoch(self, images_NCHW: Tensor) -> EpochLosses:
        """Train one epoch on uint8 images on the device; TrainingDiverged if a loss is not finite or too large."""
        sums = torch.zeros(3, device=self.device)
        for x_NCHW in self.batches(images_NCHW):
            sums += self.step(x_NCHW) * len(x_NCHW)
        return self.ended(sums / len(images_NCHW))

    def batches(self, images_NCHW: Tensor) -> Iterator[Tensor]:
        """Yield an epoch's batches, padded and in [0, 1]; each must be stepped by before the next is asked for."""
        self.network.train()
        order = torch.randperm(len(images_NCHW), generator=self.generator, device=self.device)
        batches = order.split(self.settings.batch_size)
        for number, index in enumerate(batches):
            if self.settings.schedule == "one_cycle":
                done = self.epochs_done + number / len(batches)
                self.optimiser.param_groups[0]["lr"] = self.settings.learning_rate * one_cycle(
                    done / self.settings.epochs, warm_up=self.settings.warm_up
                )
            yield puzzles.pad(to_float(images_NCHW[index]), self.grid)
            for averaged, limit in self.averages:
                self._average(averaged, limit)

    def ended(self, losses: Tensor) -> EpochLosses:
        """Count an epoch with these three mean losses; TrainingDiverged if one is not finite or too large."""
        loss_rec, loss_adv, loss_d = losses.tolist()
        learning_rate = self.optimiser.param_groups[0]["lr"]
        self.epochs_done += 1
        finite = all(map(math.isfinite, (loss_rec, loss_adv, loss_d)))
        if not finite or loss_rec > DIVERGED:
            raise TrainingDiverged(
                f"the loss {'diverges' if finite else 'is not finite'} after epoch {self.epochs_done} "
                f"(reconstruction {loss_rec}, feature matching {loss_adv}, discriminator {loss_d}); "
                f"lower train.learning_rate or train.lambda"
            )
        if self.settings.schedule == "plateau":
            self.plateau.step(loss_rec)
        if loss_rec < self.lowest_loss:
            self.lowest_loss, self.epochs_since_lowest = loss_rec, 0
        else:
            self.epochs_since_lowest += 1
        return EpochLosses(self.epochs_done, loss_rec, loss_adv, loss_d, learning_rate)

    def state(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on, as tensors and plain values."""
        return {
            **{name: getattr(self, name) for name in COUNTS},
            **{name: None if part is None else part.state_dict() for name, part in self._parts()},
            "scaler": self.scaler.state_dict(),
            "generator": self.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state` returned."""
        for name in COUNTS:
            setattr(self, name, state[name])
        for name, part in self._parts():
            if part is not None:
                part.load_state_dict(state[name])
        self.scaler.load_state_dict(state.get("scaler", {}))  # states written before it was there are not float16
        self.generator.set_state(state["generator"].cpu())

    def _parts(self) -> list[tuple[str, Any]]:
        """Parts with a state, by name; None for parts that this training does not use."""
        return [(name, getattr(self, name)) for name in PARTS]

    def step(self, x_NCHW: Tensor) -> Tensor:
        """Step the optimisers by a batch; returns the three losses, still on the device."""
        with convolving(self.device, self.precision), self.casts.in_place(), self.discriminator_casts.in_place():
            return self._step(x_NCHW)

    def _step(self, x_NCHW: Tensor) -> Tensor:
        puzzle_NCHW = self.make_puzzles(x_NCHW)
        input_NCHW = perturb(
            puzzle_NCHW,
            self._reconstruct,
            self.settings.adversary,
            generator=self.generator,
            at_once=self.at_once,
        )
        losses = halving_or_raise(self.at_once, partial(self._gradients, x_NCHW, input_NCHW))
        self.scaler.step(self.optimiser)
        if self.discriminator_optimiser is not None:
            self.scaler.step(self.discriminator_optimiser)
        self.scaler.update()
        return losses

    def _gradients(self, x_NCHW: Tensor, input_NCHW: Tensor) -> Tensor:
        """Set the scaled gradients of both networks; returns the three losses.

        The U-Net, whose images do not depend on each other, takes as many at once as fit. The discriminator always
        takes the whole batch, since its batch norm does depend on it.
        """
        parts = list(zip(x_NCHW.split(self.at_once.count), input_NCHW.split(self.at_once.count), strict=True))
        self._forget_gradients()
        solved = self._reconstruct(input_NCHW) if len(parts) == 1 else None
        loss_adv = loss_d = loss_rec = x_NCHW.new_zeros(())
        slopes: Sequence[Tensor | None] = [None] * len(parts)
        if self.discriminator is not None:
            answer_NCHW = self._solutions(parts) if solved is None else solved.detach()
            loss_adv, gradient_NCHW, loss_d = self._discriminate(self.discriminator, x_NCHW, answer_NCHW)
            slopes = (self.settings.lambda_ * gradient_NCHW).split(self.at_once.count)
        for (x_nCHW, input_nCHW), slope_nCHW in zip(parts, slopes, strict=True):
            solved_nCHW = self._reconstruct(input_nCHW) if solved is None else solved
            loss = F.mse_loss(solved_nCHW, x_nCHW)
            if len(parts) > 1:
                loss = loss * (len(x_nCHW) / len(x_NCHW))
            ends = [self.scaler.scale(loss)] if slope_nCHW is None else [self.scaler.scale(loss), solved_nCHW]
            torch.autograd.backward(ends, [None] if slope_nCHW is None else [None, slope_nCHW])
            self.casts.gather()
            loss_rec = loss_rec + loss.detach()
        return torch.stack((loss_rec, loss_adv, loss_d))

    def _forget_gradients(self) -> None:
        """Forget the gradients of the last step, or of a part of this one if memory ran out: weights' and casts'."""
        for part in (self.optimiser, self.discriminator_optimiser, self.network, self.discriminator):
            if part is not None:
                part.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _solutions(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.cat([self._reconstruct(input_nCHW) for _, input_nCHW in parts])

    def _discriminate(
        self, discriminator: Discriminator, x_NCHW: Tensor, solved_NCHW: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Set the discriminator's gradients; return L_adv, its gradient for the reconstruction, and its own loss.

        Gradients are scaled, losses are not. Both losses share one forward pass of the real and one of the
        reconstructed images.
        """
        solved_NCHW = solved_NCHW.contiguous(memory_format=torch.channels_last).requires_grad_()
        with autocast(self.device, self.precision):
            real_features, real_N = discriminator(x_NCHW.contiguous(memory_format=torch.channels_last))
            solved_features, solved_N = discriminator(solved_NCHW)
        logits = torch.cat((real_N, solved_N)).float()
        truth = torch.cat((torch.ones_like(real_N), torch.zeros_like(solved_N))).float()
        loss_d = 2 * F.binary_cross_entropy_with_logits(logits, truth)
        loss_adv = feature_matching(real_features.detach().float(), solved_features.float(), self.settings.feature_loss)
        (gradient_NCHW,) = torch.autograd.grad(self.scaler.scale(loss_adv), solved_NCHW, retain_graph=True)
        weights = list(discriminator.parameters())
        for weight, gradient in zip(weights, torch.autograd.grad(self.scaler.scale(loss_d), weights), strict=True):
            weight.grad = gradient
        self.discriminator_casts.gather()
        return loss_adv.detach(), gradient_NCHW, loss_d.detach()

    def make_puzzles(self, x_NCHW: Tensor) -> Tensor:
        """Hide a random piece and shuffle by a random permutation, drawn per image or per batch."""
        draws = 1 if self.per_batch else len(x_NCHW)
        k_N = self._draw(len(self.puzzler), draws).expand(len(x_NCHW))
        if self.hide is not None:
            piece_N = self._draw(self.puzzler.pieces, draws).expand(len(x_NCHW))
            x_NCHW = self.puzzler.hide(x_NCHW, piece_N, self.hide)
        return self.puzzler.shuffle(x_NCHW, k_N)

    def _draw(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator, device=self.device)

    def _reconstruct(self, input_NCHW: Tensor) -> Tensor:
        return reconstruct(self.network, input_NCHW, self.precision)


def feature_matching(real: Tensor, solved: Tensor, how: str) -> Tensor:
    """Return L_adv, mean square: against the batch mean of the reconstructions (eq. 3) or element by element."""
    if how == "batch_mean":
        solved = solved.mean(0, keepdim=True).expand_as(real)
    return F.mse_loss(solved, real)


def one_cycle(progress: float, *, warm_up: float) -> float:
    """Return the learning rate's factor: linear from 0.05 to 1 during warm-up, then a cosine to 0.

    ``progress`` and ``warm_up`` are shares of the training, in [0, 1] and [0, 1).
    """
    if progress < warm_up:
        return 0.05 + 0.95 * progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def averaging_decay(limit: float, step: int) -> float:
    """Return the decay of the weights' moving average at a step: (1 + step) / (10 + step), at most ``limit``.

    At first it spans the last ninth of the steps, so that a short training does not score with an average of its start
    (as in TensorFlow's ExponentialMovingAverage). ``step`` counts the steps averaged before, at least 1.
    """
    return min(limit, (1 + step) / (10 + step))


def _networks(settings: PuzzleSettings, padded: Shape, seed: int) -> tuple[UNet, Discriminator | None]:
    """Build both networks from the seed alone, on the CPU, so that every device starts from the same weights."""
    model = settings.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(channels=padded.channels, base_channels=model.base_channels)
        initialise_unet(network, model.initialisation)
        if settings.train.lambda_ == 0:
            return network, None
        base = model.discriminator_channels or model.base_channels
        discriminator = Discriminator(base_channels=base, **asdict(padded))
        initialise_discriminator(discriminator)
        return network, discriminator
