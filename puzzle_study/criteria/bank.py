"""The bank of pseudo-anomalies: validation images that were spoiled, by which a winner is chosen without test labels.

Every kind of :mod:`puzzle_study.criteria.kinds.registry` has an equal part of it, and every severity an equal part of
that. Shape legend: N images, C channels, H and W pixels, V validation images, T tries.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from puzzle_study.criteria.kinds.base import Kind
from puzzle_study.criteria.kinds.registry import KINDS

MOST = 1000
"""Images in the bank at most, over all kinds and severities."""
PER_IMAGE = 5
"""Most results of one kind and severity that are made of one image."""


@dataclass(frozen=True)
class PseudoAnomalies:
    """Spoiled images, uint8 [N, C, H, W], with the kind of each and its severity, 1 being the mildest."""

    images: Tensor
    kinds: tuple[str, ...]
    severities: tuple[int, ...]

    def to(self, device: torch.device) -> PseudoAnomalies:
        """Return the same on a device."""
        return replace(self, images=self.images.to(device))


def make_pseudo_anomalies(validation_NCHW: Tensor, *, seed: int) -> PseudoAnomalies:
    """Spoil validation images in every way of the registry.

    Each kind draws from a generator of its own, on the CPU, so that no kind changes another. Kinds that place a patch
    try several times and keep the result that changes the image most: a black patch on black is no anomaly.

    Args:
        validation_NCHW: uint8 images, on any device; the result is on the same. If there are enough of them, each is
            spoiled once for each kind at most.
        seed: seed of places and partners; the same images and seed give the same result on every device.
    """
    images_VCHW = validation_NCHW.cpu()
    images, kinds, severities = [], [], []
    for name, counts in _counts(len(images_VCHW)).items():
        made = _spoiled(KINDS[name], counts, images_VCHW, _generator(name, seed))
        images += made
        kinds += [name] * sum(counts)
        severities += [level for level, count in enumerate(counts, start=1) for _ in range(count)]
    return PseudoAnomalies(torch.cat(images).to(validation_NCHW.device), tuple(kinds), tuple(severities))


def pseudo_anomalies_of(validation: int) -> int:
    """Return how many pseudo-anomalies are made of so many validation images."""
    return sum(map(sum, _counts(validation).values()))


def _counts(validation: int) -> dict[str, list[int]]:
    """Return how many images of each severity are made, by kind; a single image has no partner."""
    found = {}
    for name, kind in KINDS.items():
        if kind.pairs and validation == 1:
            continue
        wanted = MOST // len(KINDS) // len(kind.severities)
        several = PER_IMAGE if kind.random or kind.pairs else 1
        found[name] = [min(wanted, several * validation)] * len(kind.severities)
    return found


def _generator(name: str, seed: int) -> torch.Generator:
    """Return the generator of a kind: one from the seed alone would be the same for all kinds."""
    digest = hashlib.sha256(f"{name}/{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _spoiled(kind: Kind, counts: list[int], images_VCHW: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Return spoiled images of each severity; the severities go on through the images, in a random order."""
    order, made, first = torch.randperm(len(images_VCHW), generator=generator), [], 0
    for severity, count in zip(kind.severities, counts, strict=True):
        chosen = order[torch.arange(first, first + count) % len(order)]
        first += count
        source_NCHW = images_VCHW[chosen]
        tries = [
            kind.spoil(source_NCHW, images_VCHW[_partners(chosen, len(order), generator)], severity, generator)
            for _ in range(kind.tries)
        ]
        made.append(_most_changed(tries, source_NCHW) if kind.tries > 1 else tries[0])
    return made


def _most_changed(tries: list[Tensor], source_NCHW: Tensor) -> Tensor:
    tries_TNCHW = torch.stack(tries)
    change_TN = (tries_TNCHW.float() - source_NCHW.float()).square().flatten(2).mean(2)
    return tries_TNCHW[change_TN.argmax(0), torch.arange(len(source_NCHW))]


def _partners(chosen: Tensor, images: int, generator: torch.Generator) -> Tensor:
    """Return the number of another image for each, or its own if there is only one."""
    if images == 1:
        return chosen
    return (chosen + torch.randint(1, images, chosen.shape, generator=generator)) % images
