"""PatchCore: distances of feature patches to a coreset of the training images' patches.

Differs from the paper in the network, and so in the maps: EfficientNet-Lite0's at an eighth and a sixteenth of the
image's side instead of WideResNet-50's. The random projection before the coreset is Gaussian instead of sparse, and the
smoothing of maps scales with the image.

Shape legend: N images, P positions, M patches, B patches of the coreset, b neighbours, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from typing_extensions import Self

from puzzle_study.config.types import Costs, Fraction, Images, Layer, Reading, unit
from puzzle_study.detectors.base import Context, Run, Shape
from puzzle_study.detectors.devices import Precision
from puzzle_study.detectors.feature_networks import Network
from puzzle_study.detectors.features import FeatureSettings
from puzzle_study.detectors.memory import room
from puzzle_study.detectors.patches import PatchDetector, joined

PROJECTED = 128
"""Features of a patch after a random projection, for choosing the coreset."""
NUMBERS_AT_ONCE = {"cpu": 2**24, "cuda": 2**28}
"""Most distances between patches in memory at once."""
CANDIDATES = 2048
"""Number of points farthest from the coreset, among which the next ones are chosen."""
STRIDE, FEATURES = 8, 152
"""Pixels per position of EfficientNet-Lite0's maps, and their features."""


class PatchCoreSettings(FeatureSettings):
    """How many patches are kept, and the weight of their neighbourhood."""

    DATASETS: ClassVar[Mapping[str, Layer]] = {
        name: {**FeatureSettings.DATASETS.get(name, {}), "coreset": 0.01}
        for name in ("mnist", "fashion_mnist", "cifar10")
    } | {"digits": FeatureSettings.DATASETS["digits"]}
    LARGE: ClassVar[tuple[str, ...]] = ("coreset", "input_size")

    coreset: Fraction = Field(
        0.1, json_schema_extra=unit("share"), description="Share of the training images' patches to keep."
    )
    neighbours: int = Field(
        9,
        ge=1,
        le=100,
        json_schema_extra=unit("patches"),
        description="Neighbours of a kept patch that weight the score; 1: unweighted.",
    )

    def costs(self, images: Images) -> Costs:
        """Return a trial's costs: the network, choosing the coreset, and distances to it."""
        seen = super().costs(images)
        positions = (images.pixels if self.input_size is None else self.input_size**2) / STRIDE**2
        kept = self.coreset * images.train * positions
        choice = kept * images.train * positions * PROJECTED
        return Costs(fit=seen.fit + choice, epoch=0.0, score=seen.score + positions * kept * FEATURES)


class PatchCore(PatchDetector):
    """An image's error is its patches' largest distance to the coreset, weighted by the neighbourhood."""

    name = "patchcore"
    title = "PatchCore"
    source = "Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler 2022: Towards Total Recall in Industrial Anomaly Detection"
    Settings = PatchCoreSettings
    TAPS = (4, 10)

    bank_BD: Tensor
    near_Bb: Tensor

    def __init__(
        self,
        network: Network,
        size: tuple[int, int],
        bank: tuple[int, int, int],
        *,
        shape: Shape,
        reading: Reading,
        precision: Precision,
    ) -> None:
        super().__init__(network, size, shape=shape, reading=reading, precision=precision)
        kept, features, neighbours = bank
        self.register_buffer("bank_BD", torch.zeros(kept, features))
        self.register_buffer("near_Bb", torch.zeros(kept, neighbours, dtype=torch.int64))
        self._coreset, self._neighbours, self._seed = 1.0, neighbours, 0

    @classmethod
    def build(cls, settings: PatchCoreSettings, context: Context) -> Self:
        """Return a detector without patches."""
        network, size = cls.opened(settings, context)
        detector = cls(
            network,
            size,
            (0, 0, settings.neighbours),
            shape=context.shape,
            reading=settings.reading,
            precision=context.precision,
        ).to(context.device)
        detector._coreset, detector._seed = settings.coreset, context.seed
        return detector

    @torch.no_grad()
    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Keep a coreset of the patches."""
        maps = self.training_features(images_NCHW)
        chunk = self.views_at_once()
        parts = [
            self.patches([features[start : start + chunk].to(self.device) for features in maps]).flatten(0, 1)
            for start in range(0, len(images_NCHW), chunk)
        ]
        patch_MD = torch.cat(parts)
        generator = torch.Generator().manual_seed(self._seed)
        count = max(1, round(self._coreset * len(patch_MD)))
        self.bank_BD = patch_MD[farthest_first(projected(patch_MD, generator), count, generator)]
        self.near_Bb = neighbours_of(self.bank_BD, min(self._neighbours, count))

    def patches(self, maps: list[Tensor]) -> Tensor:
        """Return the patches of maps, each averaged with its 3×3 neighbourhood, zeros beyond the border: [N, P, D]."""
        averaged = [F.avg_pool2d(features, 3, 1, 1) for features in maps]
        return joined(averaged).flatten(2).transpose(1, 2)

    def distances(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return images' errors [N, 1], and the distances at their positions as a map [N, h, w]."""
        maps = self.features(x_NCHW)
        patch_NPD = self.patches(maps)
        with torch.no_grad():
            nearest_NP = torch.cdist(patch_NPD, self.bank_BD[None], compute_mode="use_mm_for_euclid_dist").argmin(-1)
        # Computed again from differences, because the product cancels for close patches.
        distance_NP = torch.linalg.vector_norm(patch_NPD - self.bank_BD[nearest_NP], dim=-1)
        error_N1, worst_N1 = distance_NP.max(1, keepdim=True)
        if self.near_Bb.shape[1] > 1:
            near_Nb = self.near_Bb[nearest_NP.gather(1, worst_N1)[:, 0]]
            worst_N1D = patch_NPD.gather(1, worst_N1[..., None].expand(-1, -1, patch_NPD.shape[-1]))
            share_Nb = torch.linalg.vector_norm(worst_N1D - self.bank_BD[near_Nb], dim=-1).softmax(1)
            error_N1 = (1 - share_Nb[:, :1]) * error_N1
        height = max(features.shape[-2] for features in maps)
        return error_N1, distance_NP.unflatten(1, (height, -1))

    def views_at_once(self) -> int:
        """Return how many images fit into memory with their patches' distances."""
        positions = max(1, self.size[0] * self.size[1] // STRIDE**2)
        fit = room(NUMBERS_AT_ONCE, self.device) // (positions * max(1, len(self.bank_BD)))
        return max(1, min(super().views_at_once(), fit))

    def describe(self) -> dict[str, Any]:
        """Return the network and the size of the coreset."""
        return super().describe() | {"bank": [*self.bank_BD.shape, self.near_Bb.shape[1]]}

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with room for the coreset."""
        kept, features, neighbours = (int(number) for number in described["bank"])
        network, size = cls.restored_network(described, shape)
        return cls(network, size, (kept, features, neighbours), shape=shape, reading=reading, precision=precision)


def projected(patch_MD: Tensor, generator: torch.Generator) -> Tensor:
    """Return patches with at most :data:`PROJECTED` features, by a random projection that roughly keeps distances."""
    features = patch_MD.shape[1]
    if features <= PROJECTED:
        return patch_MD
    return patch_MD @ torch.randn(features, PROJECTED, generator=generator).to(patch_MD.device)


def farthest_first(point_MD: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the points of a greedy k-centre choice, [count]: each time the one farthest from all so far.

    The first is drawn. The choice continues among the farthest points while one of them is farther than all others.
    Then all points are updated with the new centres in one product of matrices, far faster than one centre at a time.
    """
    square_M = point_MD.square().sum(1)
    chosen = [int(torch.randint(len(point_MD), (1,), generator=generator))]
    nearest_M = torch.full_like(square_M, torch.inf)
    known = 0
    while True:
        centres = torch.tensor(chosen[known:], device=point_MD.device)
        known = len(chosen)
        rows = max(1, NUMBERS_AT_ONCE["cpu"] // len(centres))
        for start in range(0, len(point_MD), rows):
            part = slice(start, start + rows)
            product_mc = point_MD[part] @ point_MD[centres].T
            distance_mc = square_M[part, None] + square_M[centres] - 2 * product_mc
            nearest_M[part] = torch.minimum(nearest_M[part], distance_mc.amin(1))
        if known == count:
            return torch.tensor(chosen, device=point_MD.device)
        farthest_K, place_K = nearest_M.topk(min(CANDIDATES, len(point_MD)))
        # The largest possible distance of a point outside the candidates.
        beyond = float(farthest_K[-1]) if len(farthest_K) < len(point_MD) else -torch.inf
        candidate_KD, square_K = point_MD[place_K], square_M[place_K]
        while len(chosen) < min(count, known + CANDIDATES):
            best = int(farthest_K.argmax())
            if len(chosen) > known and float(farthest_K[best]) < beyond:
                break
            chosen.append(int(place_K[best]))
            distance_K = square_K + square_K[best] - 2 * (candidate_KD @ candidate_KD[best])
            farthest_K = torch.minimum(farthest_K, distance_K)


def neighbours_of(bank_BD: Tensor, count: int) -> Tensor:
    """Return each kept patch's nearest ones, itself first: [B, count]."""
    rows = max(1, NUMBERS_AT_ONCE["cpu"] // len(bank_BD))
    return torch.cat([torch.cdist(part, bank_BD).topk(count, largest=False).indices for part in bank_BD.split(rows)])
