"""Reconstruction error of principal components.

Shape legend: N images, R components, D = C·H·W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sklearn import decomposition
from torch import Tensor
from typing_extensions import Self

from puzzle_study.config.types import DetectorSettings, Reading
from puzzle_study.detectors.base import Context, Detector, Run, Shape, to_float
from puzzle_study.detectors.devices import Precision

EXPLAINED_VARIANCE = 0.9


class PCA(Detector):
    """An image's error is its distance to the span of the components that explain 90 % of the variance."""

    name = "pca"
    title = "PCA"
    source = "Pearson 1901, on pixels"

    mean_D: Tensor
    component_RD: Tensor

    def __init__(self, components: int, *, shape: Shape, reading: Reading, precision: Precision = "float32") -> None:
        super().__init__(shape=shape, reading=reading, precision=precision)
        pixels = shape.channels * shape.height * shape.width
        self.register_buffer("mean_D", torch.zeros(pixels))
        self.register_buffer("component_RD", torch.zeros(components, pixels))

    @classmethod
    def build(cls, settings: DetectorSettings, context: Context) -> Self:
        """Return a detector without components."""
        return cls(0, shape=context.shape, reading=settings.reading).to(context.device)

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Compute the components."""
        x_ND = to_float(images_NCHW).flatten(1).cpu().numpy()
        # A single image, or equal ones, have no deviation and so no direction.
        if len(x_ND) == 1 or (x_ND == x_ND[:1]).all():
            self.mean_D = torch.from_numpy(x_ND[0]).to(self.device)
            return
        fitted = decomposition.PCA(n_components=EXPLAINED_VARIANCE, svd_solver="full").fit(x_ND)
        self.mean_D = torch.from_numpy(fitted.mean_).to(self.device)
        self.component_RD = torch.from_numpy(fitted.components_).contiguous().to(self.device)

    def errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the distances, [N, 1]."""
        centred_ND = x_NCHW.flatten(1) - self.mean_D
        inside_ND = (centred_ND @ self.component_RD.T) @ self.component_RD
        distance_N1: Tensor = torch.linalg.vector_norm(centred_ND - inside_ND, dim=1, keepdim=True)
        return distance_N1

    def describe(self) -> dict[str, Any]:
        """Return the number of components."""
        return {"components": len(self.component_RD)}

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with room for the components."""
        return cls(int(described["components"]), shape=shape, reading=reading)
