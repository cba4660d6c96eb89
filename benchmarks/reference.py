"""The obvious Puzzle-AE, as a careful reader of the paper writes it, to measure ours against.

A DataLoader, Python loops over images, pieces and permutations, a full backward pass in the adversary, separate
discriminator passes for every loss, float32, one permutation at a time in scoring. Shapes are [N, C, H, W].
"""

from __future__ import annotations

import itertools
import random
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from puzzle_study.detectors.puzzle_ae.networks import Discriminator, UNet, initialise_discriminator

PERMUTATIONS = [order for order in itertools.permutations(range(4)) if order != (0, 1, 2, 3)]


def pieces_of(image: Tensor) -> list[Tensor]:
    """Cut one image [C, H, W] into its four pieces."""
    half = image.shape[-1] // 2
    return [image[:, :half, :half], image[:, :half, half:], image[:, half:, :half], image[:, half:, half:]]


def assemble(pieces: list[Tensor]) -> Tensor:
    """Lay four pieces out as an image."""
    top = torch.cat((pieces[0], pieces[1]), dim=2)
    bottom = torch.cat((pieces[2], pieces[3]), dim=2)
    return torch.cat((top, bottom), dim=1)


def make_puzzle(image: Tensor, order: tuple[int, ...], *, hide: int | None = None) -> Tensor:
    """Make one puzzle of one image, with one piece hidden where asked."""
    pieces = pieces_of(image)
    if hide is not None:
        piece = pieces[hide]
        pieces[hide] = torch.zeros_like(piece) if len(image) == 1 else piece.mean(0, keepdim=True).expand_as(piece)
    return assemble([pieces[index] for index in order])


class PlainUNet(UNet):
    """The U-Net, whatever layout and gradients PyTorch gives it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction."""
        skips = [self.stem(x)]
        for block in self.down:
            skips.append(block(F.max_pool2d(skips[-1], 2)))
        y = skips.pop()
        for block in self.up:
            skip = skips.pop()
            y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
            bottom, right = skip.shape[-2] - y.shape[-2], skip.shape[-1] - y.shape[-1]
            y = F.pad(y, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
            y = block(torch.cat((skip, y), dim=1))
        return cast(Tensor, self.head(y))


class Reference:
    """Training and scoring by the book.

    Args:
        channels: of the images.
        side: of the images in pixels.
        base_channels: of the U-Net and the discriminator.
        batch_size: images a step.
        device: where the networks are.
    """

    def __init__(self, *, channels: int, side: int, base_channels: int, batch_size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        random.seed(0)
        self.network = PlainUNet(channels=channels, base_channels=base_channels).to(device)
        self.discriminator = Discriminator(channels=channels, base_channels=base_channels, height=side, width=side)
        initialise_discriminator(self.discriminator.to(device))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-3, weight_decay=1e-5)
        self.discriminator_optimiser = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.batch_size, self.device = batch_size, device
        self.epsilon, self.alpha, self.weight = 0.1, 2.0, 0.02

    def train(self, images: Tensor) -> float:
        """Train on uint8 images for one epoch; returns the last reconstruction loss."""
        loader = DataLoader(TensorDataset(images), batch_size=self.batch_size, shuffle=True)
        loss_value = 0.0
        for (batch,) in loader:
            x = batch.float().div(255)
            puzzles = torch.stack(
                [make_puzzle(image, random.choice(PERMUTATIONS), hide=random.randrange(4)) for image in x]
            )
            loss_value = self._step(x.to(self.device), puzzles.to(self.device))
        return loss_value

    def _step(self, x: Tensor, puzzles: Tensor) -> float:
        noise = torch.empty_like(puzzles).uniform_(-self.epsilon, self.epsilon)
        attacked = (puzzles + noise).requires_grad_()
        F.mse_loss(self.network(attacked), puzzles).backward()
        assert attacked.grad is not None
        noise = (noise + self.alpha * attacked.grad.sign()).clamp(-self.epsilon, self.epsilon)
        solved = self.network((puzzles + noise).clamp(0, 1))
        self.optimiser.zero_grad()
        loss_rec = F.mse_loss(solved, x)
        real_features, _ = self.discriminator(x)
        solved_features, _ = self.discriminator(solved)
        loss_adv = F.mse_loss(solved_features, real_features)
        (loss_rec + self.weight * loss_adv).backward()
        self.optimiser.step()
        self.discriminator_optimiser.zero_grad()
        _, real = self.discriminator(x)
        _, fake = self.discriminator(solved.detach())
        loss_d = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
        loss_d = loss_d + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
        loss_d.backward()
        self.discriminator_optimiser.step()
        return float(loss_rec.detach())

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """Return the error matrix [N, K] of uint8 images, one permutation at a time."""
        self.network.eval()
        columns = []
        for order in PERMUTATIONS:
            errors = []
            for (batch,) in DataLoader(TensorDataset(images), batch_size=self.batch_size):
                x = batch.float().div(255)
                puzzles = torch.stack([make_puzzle(image, order) for image in x]).to(self.device)
                errors.append((self.network(puzzles) - x.to(self.device)).square().mean((1, 2, 3)).cpu())
            columns.append(torch.cat(errors))
        return torch.stack(columns, dim=1)

    def attack(self, images: Tensor, steps: int) -> Tensor:
        """Attack uint8 images before puzzles are made, by PGD on the mean error over all permutations."""
        self.network.eval()
        results = []
        for (batch,) in DataLoader(TensorDataset(images), batch_size=8):
            x = batch.float().div(255).to(self.device)
            attacked = x.clone()
            for _ in range(steps):
                attacked = attacked.detach().requires_grad_()
                total = torch.zeros((), device=self.device)
                for order in PERMUTATIONS:
                    puzzles = torch.stack([make_puzzle(image, order) for image in attacked])
                    total = total + (self.network(puzzles) - attacked).square().mean()
                total.backward()
                assert attacked.grad is not None
                moved = attacked.detach() + self.epsilon / 4 * attacked.grad.sign()
                attacked = torch.minimum(torch.maximum(moved, x - self.epsilon), x + self.epsilon).clamp(0, 1)
            results.append(attacked.detach().cpu())
        return torch.cat(results)


def multiply_adds(network: nn.Module, example: Tensor) -> int:
    """Return the multiply-adds of one forward pass of a network's convolutions on one example [1, C, H, W]."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += output.numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1]

    hooks = [module.register_forward_hook(count) for module in network.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        network.eval()(example)
    for hook in hooks:
        hook.remove()
    return total
