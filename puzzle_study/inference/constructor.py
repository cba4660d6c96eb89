"""The constructor of :class:`puzzle_study.PuzzleAE`: every setting of a study file as a parameter of its own."""

from __future__ import annotations

from typing import Literal

import numpy as np
from sklearn.base import BaseEstimator


class Parameters(BaseEstimator):  # type: ignore[misc]
    """Parameters by name, with the defaults of a study file that says ``data: {name: folder}`` and no more.

    These are ``preset: fast``: minutes for a few hundred images of 128×128 pixels on a laptop. What ``preset: paper``
    means is ``epochs=3000, base_channels=64, initialisation="default", learning_rate=1e-3, schedule="plateau"``.
    :mod:`puzzle_study.config` has the meanings and ranges.

    The names are those of study files, flattened by :data:`puzzle_study.inference.parameters.SETTINGS`. As
    scikit-learn wants it, nothing is checked before ``fit``.

    Args:
        kind: ``jigsaw`` or ``rotation``.
        grid: pieces per side, 2 or 3.
        permutations: ``auto``, ``all``, ``two_swapped`` or ``drawn``.
        permutation_count: how many are ``drawn``.
        permutation_seed: seed of that draw.
        hide: what a random piece becomes in training, ``auto``, ``black``, ``gray`` or ``none``.
        per_batch: one draw of permutation and hidden piece per batch.
        base_channels: channels of the U-Net's first level; 8 to 16 suit a CPU, 64 is the paper's.
        discriminator_channels: the discriminator's; None: the same.
        initialisation: ``default`` or ``he``.
        epochs: epochs at most.
        batch_size: images a step.
        learning_rate: Adam's for the U-Net.
        discriminator_learning_rate: Adam's for the discriminator.
        weight_decay: L2 penalty on the U-Net's weights.
        schedule: ``plateau``, ``one_cycle`` or ``constant``.
        warm_up: share of the epochs over which ``one_cycle`` rises to its peak.
        averaging: decay, a step, of the moving average of the weights that scores; 0: the last weights.
        plateau_factor: factor on the learning rate on a plateau.
        plateau_patience: epochs in a row without a new minimum that are no plateau yet; one more is.
        lambda_: weight of the feature-matching loss; 0: no discriminator.
        feature_loss: ``batch_mean`` or ``elementwise``.
        convergence_epochs: stop after so many epochs without a lower loss; None: never.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        adversary: perturbation in training, ``fgsm``, ``pgd`` or ``none``.
        epsilon: its bound, pixels being in [0, 1].
        alpha: its step size.
        adversary_steps: steps of ``pgd``.
        adversary_noise: ``once`` or ``twice``.
        adversary_target: ``clean`` or ``noisy``.
        error: ``l2`` or ``mse``.
        aggregation: ``min``, ``avg`` or ``max`` over the puzzles.
        scored_permutations: ``all``, or how many of them score an image.
        puzzle_set: permutations in scoring, those of ``training`` or ``all``.
        validation_fraction: share of the images that is kept for validation.
        contamination: share of new normal images that ``predict`` may flag, in (0, 0.5]; the validation scores give
            the threshold, so that it is no share of the training images.
        image_shape: (C, H, W) of rows; None: squares of one channel.
        device: ``auto``, ``cpu`` or ``cuda``.
        random_state: seed of the split, the weights, the order of images, the puzzles and the noise.
        verbose: show a progress bar on standard error.
    """

    def __init__(
        self,
        *,
        kind: str = "jigsaw",
        grid: int = 2,
        permutations: str = "auto",
        permutation_count: int = 24,
        permutation_seed: int = 0,
        hide: str = "auto",
        per_batch: bool = False,
        base_channels: int = 8,
        discriminator_channels: int | None = None,
        initialisation: str = "he",
        epochs: int = 50,
        batch_size: int = 8,
        learning_rate: float = 3e-3,
        discriminator_learning_rate: float = 2e-4,
        weight_decay: float = 1e-5,
        schedule: str = "one_cycle",
        warm_up: float = 0.1,
        averaging: float = 0.0,
        plateau_factor: float = 0.8,
        plateau_patience: int = 50,
        lambda_: float = 0.02,
        feature_loss: str = "batch_mean",
        convergence_epochs: int | None = None,
        precision: str = "auto",
        adversary: str = "fgsm",
        epsilon: float = 0.01,
        alpha: float = 2.0,
        adversary_steps: int = 7,
        adversary_noise: str = "once",
        adversary_target: str = "clean",
        error: str = "l2",
        aggregation: str = "avg",
        scored_permutations: int | Literal["all"] = "all",
        puzzle_set: str = "training",
        validation_fraction: float = 0.15,
        contamination: float = 0.05,
        image_shape: tuple[int, int, int] | None = None,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.kind = kind
        self.grid = grid
        self.permutations = permutations
        self.permutation_count = permutation_count
        self.permutation_seed = permutation_seed
        self.hide = hide
        self.per_batch = per_batch
        self.base_channels = base_channels
        self.discriminator_channels = discriminator_channels
        self.initialisation = initialisation
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.discriminator_learning_rate = discriminator_learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.warm_up = warm_up
        self.averaging = averaging
        self.plateau_factor = plateau_factor
        self.plateau_patience = plateau_patience
        self.lambda_ = lambda_
        self.feature_loss = feature_loss
        self.convergence_epochs = convergence_epochs
        self.precision = precision
        self.adversary = adversary
        self.epsilon = epsilon
        self.alpha = alpha
        self.adversary_steps = adversary_steps
        self.adversary_noise = adversary_noise
        self.adversary_target = adversary_target
        self.error = error
        self.aggregation = aggregation
        self.scored_permutations = scored_permutations
        self.puzzle_set = puzzle_set
        self.validation_fraction = validation_fraction
        self.contamination = contamination
        self.image_shape = image_shape
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
