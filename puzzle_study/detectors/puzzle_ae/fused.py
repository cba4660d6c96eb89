"""Several trainings of equal shape as one network with grouped convolutions, each with the numbers of a single one.

Every member keeps its networks, optimisers, schedule and random generator. Only the weights stand in common tensors, in
which each member's weights are a part. A step goes through the common tensors; a member's own optimiser, average and
checkpoint see its part.

Shape legend: N images of a batch, M members, C channels, H and W padded pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puzzle_study.detectors.base import Run, Turn
from puzzle_study.detectors.devices import autocast, convolving, dtype_of
from puzzle_study.detectors.memory import AtOnce
from puzzle_study.detectors.puzzle_ae.adversary import ascended, start_noise
from puzzle_study.detectors.puzzle_ae.casts import Casts
from puzzle_study.detectors.puzzle_ae.networks import Discriminator, UNet, reconstruct
from puzzle_study.detectors.puzzle_ae.training import Trainer

Network = TypeVar("Network", UNet, Discriminator)


def train_together(
    trainers: Sequence[Trainer], images: Sequence[Tensor], runs: Sequence[Run], turn: Turn
) -> list[Exception | None]:
    """Train to the end, by common steps as long as all batches have equal sizes; return the exception of each member.

    A member whose batch is smaller, the last one of its epoch, takes that step alone. One that is finished, or that
    raised an exception, leaves the others.
    """
    trainings = [one.training(own_NCHW, run) for one, own_NCHW, run in zip(trainers, images, runs, strict=True)]
    errors: list[Exception | None] = [None] * len(trainers)
    batches: dict[int, Tensor] = {}

    def go_on(number: int, losses: Tensor | None = None) -> None:
        """Take a member to its next batch, after the step by the last one; without losses it takes that step alone."""
        turn([number])
        try:
            if losses is None and number in batches:
                losses = trainers[number].step(batches[number])
            batches[number] = trainings[number].send(losses)  # type: ignore[arg-type]  # None starts it
        except StopIteration:
            batches.pop(number, None)
        except Exception as error:  # of this member alone
            errors[number] = error
            batches.pop(number, None)

    for number in range(len(trainers)):
        go_on(number)
    stack: Stack | None = None
    while batches:
        numbers = sorted(batches)
        largest = max(map(len, batches.values()))
        smaller = [number for number in numbers if len(batches[number]) < largest]
        if smaller or len(numbers) == 1:
            for number in smaller or numbers:
                go_on(number)
            continue
        members = [trainers[number] for number in numbers]
        if stack is None or stack.trainers != members:
            stack = Stack(members)
        turn(numbers)
        for number, losses in zip(numbers, stack.step([batches[number] for number in numbers]), strict=True):
            go_on(number, losses)
    for trainer in trainers:
        _separate(trainer.network, trainer.discriminator)
    return errors


class Stack:
    """The networks of several trainers side by side; the trainers' weights become views of theirs."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = list(trainers)
        first = trainers[0]
        self.device, self.precision = first.device, first.precision
        self.adversary, self.feature_loss = first.settings.adversary, first.settings.feature_loss
        self.perturbs = self.adversary.method != "none" and self.adversary.epsilon > 0
        self.network = widened([trainer.network for trainer in trainers])
        discriminators = [trainer.discriminator for trainer in trainers]
        found = [discriminator for discriminator in discriminators if discriminator is not None]
        self.discriminator = widened(found) if found else None
        self.weights = list(self.network.parameters())
        self.discriminator_weights = list(self.discriminator.parameters()) if self.discriminator else []
        dtype = dtype_of(self.precision)
        self.casts, self.discriminator_casts = (
            Casts(self.network, dtype),
            Casts(self.discriminator or nn.Module(), dtype),
        )
        self.norms = [module for one in found for module in one.modules() if isinstance(module, nn.BatchNorm2d)]
        channels = first.network.head.out_channels
        settings = [trainer.settings for trainer in trainers]

        def of_channels(values: list[float]) -> Tensor:
            return torch.tensor(values, device=self.device).repeat_interleave(channels).reshape(1, -1, 1, 1)

        self.lambda_1C11 = of_channels([one.lambda_ for one in settings])
        self.epsilon_1C11 = of_channels([one.adversary.epsilon for one in settings])
        self.alpha_1C11 = of_channels([one.adversary.alpha for one in settings])

    def step(self, batches: Sequence[Tensor]) -> Tensor:
        """Step every member by its own batch, all of equal size; returns each one's three losses, [M, 3]."""
        with convolving(self.device, self.precision), self.casts.in_place(), self.discriminator_casts.in_place():
            return self._step(batches)

    def _step(self, batches: Sequence[Tensor]) -> Tensor:
        x_NCHW = _beside(batches)
        input_NCHW = self._inputs(batches)
        solved_NCHW = self._reconstruct(input_NCHW)
        loss_rec_M = self._means((solved_NCHW - x_NCHW).square())
        for weight in (*self.weights, *self.discriminator_weights):
            weight.grad = None
        if self.discriminator is None:
            self._summed(loss_rec_M).backward()
            self._step_networks()
            return torch.stack((loss_rec_M.detach(), torch.zeros_like(loss_rec_M), torch.zeros_like(loss_rec_M)), 1)
        loss_adv_M, gradient_NCHW, loss_d_M = self._discriminate(self.discriminator, x_NCHW, solved_NCHW.detach())
        torch.autograd.backward([self._summed(loss_rec_M), solved_NCHW], [None, self.lambda_1C11 * gradient_NCHW])
        self._step_networks()
        return torch.stack((loss_rec_M.detach(), loss_adv_M, loss_d_M), 1)

    def _inputs(self, batches: Sequence[Tensor]) -> Tensor:
        """Return each member's puzzles with its own perturbation, from its own generator."""
        puzzles = [trainer.make_puzzles(x_NCHW) for trainer, x_NCHW in zip(self.trainers, batches, strict=True)]
        if not self.perturbs:
            return _beside(puzzles)
        noises = [
            start_noise(puzzle_NCHW, trainer.settings.adversary, trainer.generator)
            for trainer, puzzle_NCHW in zip(self.trainers, puzzles, strict=True)
        ]
        return ascended(
            _beside(puzzles),
            _beside(noises),
            self._reconstruct,
            self.adversary,
            epsilon=self.epsilon_1C11,
            alpha=self.alpha_1C11,
            at_once=AtOnce(len(batches[0])),
        )

    def _reconstruct(self, input_NCHW: Tensor) -> Tensor:
        return reconstruct(self.network, input_NCHW, self.precision)

    def _discriminate(
        self, discriminator: Discriminator, x_NCHW: Tensor, solved_NCHW: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Step the discriminators; return L_adv [M], its gradient for the reconstructions, and their losses [M]."""
        solved_NCHW = solved_NCHW.contiguous(memory_format=torch.channels_last).requires_grad_()
        with autocast(self.device, self.precision):
            real_features, real_NM = discriminator(x_NCHW.contiguous(memory_format=torch.channels_last))
            solved_features, solved_NM = discriminator(solved_NCHW)
        for norm in self.norms:
            cast(Tensor, norm.num_batches_tracked).add_(2)
        logits = torch.cat((real_NM, solved_NM)).float()
        truth = torch.cat((torch.ones_like(real_NM), torch.zeros_like(solved_NM))).float()
        loss_d_M = 2 * F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(0)
        matched = solved_features.float()
        if self.feature_loss == "batch_mean":
            matched = matched.mean(0, keepdim=True)
        loss_adv_M = self._means((matched - real_features.detach().float()).square())
        (gradient_NCHW,) = torch.autograd.grad(self._summed(loss_adv_M), solved_NCHW, retain_graph=True)
        weights = list(discriminator.parameters())
        for weight, gradient in zip(weights, torch.autograd.grad(self._summed(loss_d_M), weights), strict=True):
            weight.grad = gradient
        self.discriminator_casts.gather()
        self._share_out(self.discriminator_weights, [trainer.discriminator for trainer in self.trainers])
        for trainer in self.trainers:
            assert trainer.discriminator_optimiser is not None
            trainer.scaler.step(trainer.discriminator_optimiser)
        return loss_adv_M.detach(), gradient_NCHW, loss_d_M.detach()

    def _step_networks(self) -> None:
        self.casts.gather()
        self._share_out(self.weights, [trainer.network for trainer in self.trainers])
        for trainer in self.trainers:
            trainer.scaler.step(trainer.optimiser)
            trainer.scaler.update()

    def _summed(self, loss_M: Tensor) -> Tensor:
        """Return the sum of the members' losses, each scaled as its member says."""
        if self.precision != "float16":
            return loss_M.sum()
        return torch.stack([one.scaler.scale(loss) for one, loss in zip(self.trainers, loss_M, strict=True)]).sum()

    def _share_out(self, wholes: Sequence[Tensor], networks: Sequence[nn.Module | None]) -> None:
        """Give every member's weights their part of the common weights' gradients, in their own memory layout."""
        owners = zip(*(network.parameters() for network in networks if network is not None), strict=True)
        for whole, weights in zip(wholes, owners, strict=True):
            assert whole.grad is not None
            for weight, part in zip(weights, whole.grad.chunk(len(weights)), strict=True):
                # The optimiser's kernel pairs numbers by their place in memory.
                weight.grad = part if part.stride() == weight.stride() else torch.empty_like(weight).copy_(part)

    def _means(self, squares_NCHW: Tensor) -> Tensor:
        """Return each member's mean, [M]."""
        apart: Tensor = squares_NCHW.unflatten(1, (len(self.trainers), -1))
        return apart.mean((0, 2, 3, 4))


def widened(networks: Sequence[Network]) -> Network:
    """Return networks of equal shape as one with grouped convolutions; their weights become views of its weights."""
    whole = copy.deepcopy(networks[0])
    whole.members = len(networks)
    for name, module in list(whole.named_modules()):
        parts: Any = [network.get_submodule(name) for network in networks]
        if isinstance(module, nn.Conv2d):
            whole.set_submodule(name, _grouped(module, parts))
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = (
                _joined([getattr(part, name) for part in parts]) for name in ("running_mean", "running_var")
            )
            module.num_batches_tracked = None  # the members count for themselves
            for own in ("weight", "bias"):
                setattr(module, own, nn.Parameter(_joined([getattr(part, own) for part in parts])))
    return whole


def _grouped(one: nn.Conv2d, parts: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """Return convolutions like ``one`` as a grouped one, whatever kernel each of them would use alone."""
    sizes: Any = {"kernel_size": one.kernel_size, "stride": one.stride, "padding": one.padding}  # typed as pairs
    inputs, outputs = len(parts) * one.in_channels, len(parts) * one.out_channels
    grouped = nn.Conv2d(inputs, outputs, **sizes, groups=len(parts), bias=one.bias is not None, device="meta")
    grouped.weight = nn.Parameter(_joined([part.weight for part in parts]))
    if one.bias is not None:
        grouped.bias = nn.Parameter(_joined([cast(Tensor, part.bias) for part in parts]))
    return grouped


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors one after the other, and make each a view of its place there."""
    whole = torch.cat([part.detach() for part in parts])
    for part, place in zip(parts, whole.chunk(len(parts)), strict=True):
        part.data = place
    return whole


def _separate(*networks: nn.Module | None) -> None:
    """Give networks memory of their own again."""
    for network in networks:
        for tensor in network.state_dict(keep_vars=True).values() if network is not None else ():
            tensor.data = tensor.data.clone()


def _beside(tensors: Sequence[Tensor]) -> Tensor:
    """Return the members' images [N, C, H, W] side by side, [N, M·C, H, W]."""
    return torch.stack(list(tensors), 1).flatten(1, 2)
