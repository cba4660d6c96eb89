"""A one-class support vector machine on pixels.

Shape legend: N images, S support vectors, D = C·H·W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sklearn import svm
from torch import Tensor
from typing_extensions import Self

from puzzle_study.config.types import DetectorSettings, Reading
from puzzle_study.detectors.base import Context, Detector, Run, Shape, to_float
from puzzle_study.detectors.devices import Precision

OUTLIER_BOUND = 0.1


class OneClassSVM(Detector):
    """An image's error is how far its decision value is below the largest possible one (RBF kernel, ν 0.1)."""

    name = "one_class_svm"
    title = "one-class SVM"
    source = "Schölkopf, Platt, Shawe-Taylor, Smola, Williamson 2001, on pixels"

    support_SD: Tensor
    weight_S: Tensor
    gamma: Tensor

    def __init__(self, vectors: int, *, shape: Shape, reading: Reading, precision: Precision = "float32") -> None:
        super().__init__(shape=shape, reading=reading, precision=precision)
        pixels = shape.channels * shape.height * shape.width
        self.register_buffer("support_SD", torch.zeros(vectors, pixels))
        self.register_buffer("weight_S", torch.zeros(vectors, dtype=torch.float64))
        self.register_buffer("gamma", torch.ones((), dtype=torch.float64))

    @classmethod
    def build(cls, settings: DetectorSettings, context: Context) -> Self:
        """Return a detector without support vectors."""
        return cls(0, shape=context.shape, reading=settings.reading).to(context.device)

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Find the support vectors."""
        x_ND = to_float(images_NCHW).flatten(1).cpu().numpy()
        fitted = svm.OneClassSVM(nu=OUTLIER_BOUND, gamma="scale").fit(x_ND)
        self.support_SD = torch.from_numpy(fitted.support_vectors_).float().to(self.device)
        self.weight_S = torch.from_numpy(fitted.dual_coef_[0].copy()).to(self.device)
        variance = float(x_ND.var())
        self.gamma = torch.tensor(1 / (x_ND.shape[1] * variance) if variance else 1.0, dtype=torch.float64).to(
            self.device
        )

    def errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the largest decision value minus each image's, [N, 1]; the kernel is at most 1."""
        x_ND, support_SD = x_NCHW.flatten(1).double(), self.support_SD.double()
        squared_NS = x_ND.square().sum(1, keepdim=True) + support_SD.square().sum(1) - 2 * x_ND @ support_SD.T
        lacking_NS = -torch.expm1(-self.gamma * squared_NS)
        return (lacking_NS @ self.weight_S).clamp_min(0)[:, None].float()

    def describe(self) -> dict[str, Any]:
        """Return the number of support vectors."""
        return {"vectors": len(self.weight_S)}

    @classmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector with room for the support vectors."""
        return cls(int(described["vectors"]), shape=shape, reading=reading)
