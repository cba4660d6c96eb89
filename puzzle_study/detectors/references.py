"""References that cost nothing: what a detector must beat on the same split to be worth its training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM

EXPLAINED_VARIANCE = 0.9
OUTLIER_BOUND = 0.1

Scorer = Callable[[np.ndarray], np.ndarray]


def fit_reference(name: str, train_NCHW: np.ndarray) -> Scorer:
    """Fit a reference on normal images.

    Args:
        name: ``nearest_neighbour`` (pixel distance), ``pca`` (reconstruction error with the components that explain
            90 % of the variance) or ``one_class_svm`` (RBF kernel, ν = 0.1).
        train_NCHW: uint8 images.

    Returns:
        A function from uint8 images [N, C, H, W] to scores [N], at least 0, larger for anomalies.
    """
    train_ND = _flat(train_NCHW)
    if name == "nearest_neighbour":
        neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(train_ND)
        return lambda images: neighbours.kneighbors(_flat(images))[0][:, 0]
    if name == "pca":
        pca = PCA(n_components=EXPLAINED_VARIANCE, svd_solver="full").fit(train_ND)

        def residual(images: np.ndarray) -> np.ndarray:
            x_ND = _flat(images)
            distance_N: np.ndarray = np.linalg.norm(x_ND - pca.inverse_transform(pca.transform(x_ND)), axis=1)
            return distance_N

        return residual
    svm = OneClassSVM(nu=OUTLIER_BOUND, gamma="scale").fit(train_ND)
    # An RBF kernel is at most 1, so that the sum of the coefficients bounds every decision value.
    most = float(svm.dual_coef_.sum())
    return lambda images: np.maximum(most - svm.score_samples(_flat(images)), 0.0)


def _flat(images_NCHW: np.ndarray) -> np.ndarray:
    return images_NCHW.reshape(len(images_NCHW), -1).astype(np.float32) / 255
