"""The settings of Puzzle-AE: sections, presets, variants, defaults per data set, and settings without effect.

The authors' configuration gives what the paper leaves open (ε, λ, α, epochs). If paper and code contradict each other,
the classes and data sets have the paper's choice, and the preset ``authors_code`` has the code's.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from puzzle_study.config.types import (
    MOST_EPOCHS,
    Alike,
    Costs,
    DetectorSettings,
    Images,
    Layer,
    OneOf,
    Perturbation,
    Reading,
    Rule,
    Section,
    Seed,
    WantedPrecision,
    unit,
)
from puzzle_study.detectors.puzzle_ae.rules import RULES, scoring_permutations
from puzzle_study.detectors.scoring import AGGREGATIONS, NORMS

MOST_PERMUTATIONS = 512
# Multiply-adds of the U-Net per pixel are 140 × base², and narrow networks take longer for each.
ADDS_PER_PIXEL, NARROW = 140, 16
MOST_BASE_CHANNELS = 256
Channels = Annotated[int, Field(ge=1, le=MOST_BASE_CHANNELS, json_schema_extra=unit("channels"))]
Epochs = Annotated[int, Field(json_schema_extra=unit("epochs"))]
Rate = Annotated[float, Field(le=1, json_schema_extra=unit("–"))]
Factor = Annotated[float, Field(json_schema_extra=unit("–"))]
Aggregation = Annotated[str, OneOf(lambda: AGGREGATIONS)]
ErrorNorm = Annotated[str, OneOf(lambda: NORMS)]
Variant = Literal["PAE", "CPAE", "CPAE-G", "Rot-AE"]
Preset = Literal["paper", "authors_code", "fast"]


class Puzzle(Section):
    """How puzzles are made (paper, section 3.1)."""

    kind: Literal["jigsaw", "rotation"] = Field(
        "jigsaw", description="`rotation` turns the image by 90, 180, 270 degrees instead (Rot-AE, section 5)."
    )
    grid: Literal[2, 3] = Field(
        2, json_schema_extra=unit("pieces per side"), description="Pieces per side: 2 gives 4 pieces, 3 gives 9."
    )
    permutations: Literal["auto", "all", "two_swapped", "drawn"] = Field(
        "auto",
        description="`all`: all 23, for grid 2; `two_swapped`: the transpositions (6 for grid 2); `drawn`: a random "
        "draw, for grid 3; `auto`: two_swapped for MVTec's textures, otherwise all or drawn by grid.",
    )
    count: int = Field(
        24,
        ge=1,
        le=MOST_PERMUTATIONS,
        json_schema_extra=unit("permutations"),
        description="K, number of permutations drawn (`drawn` only).",
    )
    seed: Seed = Field(0, description="Seed of that draw; every trial of a study shares it.")
    hide: Literal["auto", "black", "gray", "none"] = Field(
        "auto",
        description="Colour of the one random piece hidden in training; `auto`: black for 1 channel, gray for 3.",
    )
    per_batch: bool = Field(
        False, description="Draw permutation and hidden piece once per batch (authors' code) instead of per image."
    )


class Model(Section):
    """The U-Net and the discriminator."""

    base_channels: Channels = Field(64, description="Channels of the U-Net's first level (64: 17.3 M weights).")
    discriminator_channels: int | None = Field(
        None,
        ge=1,
        le=MOST_BASE_CHANNELS,
        json_schema_extra=unit("channels"),
        description="Channels of the discriminator's first level; null: the same as base_channels.",
    )
    initialisation: Literal["default", "he"] = Field(
        "default", description="U-Net weights: PyTorch's default (authors), or He normal with the last layer × 0.1."
    )


class Adversary(Section):
    """How puzzles are perturbed in training (paper, eq. 1)."""

    method: Literal["fgsm", "pgd", "none"] = Field(
        "fgsm", description="One step (`fgsm`), `steps` steps (`pgd`) or no perturbation."
    )
    epsilon: Perturbation = Field(0.1, description="Bound of the perturbation, pixels in [0, 1]; 8/255 may be written.")
    alpha: float = Field(
        2.0,
        gt=0,
        le=10,
        json_schema_extra=unit("pixel value"),
        description="Absolute step size; with FGSM, every α ≥ 2ε gives ε · sign of the gradient.",
    )
    steps: int = Field(7, ge=1, le=100, json_schema_extra=unit("steps"), description="Steps of PGD.")
    noise: Literal["once", "twice"] = Field(
        "once", description="`twice` (authors' code): the start noise stays in the input, effective bound 2ε."
    )
    target: Literal["clean", "noisy"] = Field(
        "clean",
        description="What the adversary's loss compares with: the clean puzzle (paper) or, not clamped, the noisy one.",
    )


class Train(Section):
    """Losses, optimisers, learning rate schedule and stopping."""

    epochs: Epochs = Field(
        600,
        ge=0,
        le=MOST_EPOCHS,
        description="Most epochs; 0 leaves the network untrained. A search trains once for several listed numbers "
        "(`grid`, `choice`), unless the schedule is one-cycle.",
    )
    batch_size: int = Field(
        128, ge=1, le=4096, json_schema_extra=unit("images"), description="Images per training step."
    )
    learning_rate: Rate = Field(1e-3, gt=0, description="Adam's learning rate for the U-Net.")
    discriminator_learning_rate: Rate = Field(
        2e-4, gt=0, description="Adam's learning rate for the discriminator (β₁ = 0.5)."
    )
    weight_decay: Rate = Field(1e-5, ge=0, description="L2 penalty on the U-Net's weights (eq. 8).")
    schedule: Literal["plateau", "one_cycle", "constant"] = Field(
        "plateau",
        description="Learning rate of the U-Net: × plateau_factor when the loss stops falling (paper), one-cycle "
        "(linear warm-up, then cosine to 0) or constant.",
    )
    warm_up: float = Field(
        0.1,
        ge=0,
        lt=1,
        json_schema_extra=unit("share"),
        description="Share of the epochs in which one-cycle rises from a twentieth of its peak to the peak.",
    )
    averaging: float = Field(
        0.0,
        ge=0,
        lt=1,
        json_schema_extra=unit("per step"),
        description="Per-step decay of the weight average used for scoring; after n steps it is at most "
        "(1 + n) / (10 + n); 0: the last weights. A search trains once for several listed decays (`grid`, `choice`).",
    )
    plateau_factor: Factor = Field(0.8, gt=0, lt=1, description="Factor on the learning rate at a plateau.")
    plateau_patience: Epochs = Field(
        50, ge=1, description="Epochs without improvement before the learning rate is reduced."
    )
    lambda_: Factor = Field(
        0.02, ge=0, le=100, alias="lambda", description="λ, weight of the feature matching loss; 0: no discriminator."
    )
    feature_loss: Literal["batch_mean", "elementwise"] = Field(
        "batch_mean", description="Feature matching with the batch mean (eq. 3) or element by element (authors' code)."
    )
    convergence_epochs: int | None = Field(
        None,
        ge=1,
        json_schema_extra=unit("epochs"),
        description="Stop after this many epochs without a new minimum of the loss; null: never.",
    )
    precision: WantedPrecision = Field(
        "auto",
        description="Arithmetic of the convolutions; `auto`: bfloat16 if the hardware supports it natively, otherwise "
        "float32; `float16`: for GPUs without native bfloat16, such as T4 and V100; `tf32`: float32, but GPUs since "
        "Ampere multiply only 10 bits of the mantissa.",
    )
    adversary: Adversary = Field(Adversary(), description="Perturbation of the puzzles in training.")


class Score(Section):
    """How errors become one anomaly score per image (paper, section 3.2)."""

    error: ErrorNorm = Field(
        "l2", description="Root of the mean squared error (eq. 5), or the mean squared error (authors' code)."
    )
    aggregation: Aggregation = Field("max", description="How the K normalised errors become one score (eq. 7).")
    permutations: Literal["all"] | int = Field(
        "all",
        json_schema_extra=unit("permutations"),
        description="Permutations that score an image: all K, or so many of them, spread evenly over all. Error "
        "matrices have all K, so another number needs no training.",
    )
    puzzle_set: Literal["training", "all"] = Field(
        "training", description="Permutations for scoring: those of training, or all 23 (authors' code for textures)."
    )

    @model_validator(mode="after")
    def _some_permutations(self) -> Score:
        if isinstance(self.permutations, int) and self.permutations < 1:
            raise ValueError("permutations must be `all` or at least 1")
        return self


DATASET_DEFAULTS: dict[str, Layer] = {
    "digits": {
        "model": {"base_channels": 8},
        "train": {"epochs": 40, "batch_size": 32, "adversary": {"epsilon": 0.1}},
        "score": {"aggregation": "max"},
    },
    "mnist": {"train": {"epochs": 600, "adversary": {"epsilon": 0.1}}, "score": {"aggregation": "max"}},
    "fashion_mnist": {"train": {"epochs": 600, "adversary": {"epsilon": 0.07}}, "score": {"aggregation": "max"}},
    "cifar10": {"train": {"epochs": 2000, "adversary": {"epsilon": 10 / 255}}, "score": {"aggregation": "avg"}},
    "coil100": {"train": {"epochs": 2000, "adversary": {"epsilon": 10 / 255}}, "score": {"aggregation": "avg"}},
    "mvtec": {
        "data": {"augment_to": 800},
        "train": {"epochs": 3000, "batch_size": 8, "adversary": {"epsilon": 0.01}},
        "score": {"aggregation": "avg"},
    },
    "folder": {
        "preset": "fast",
        "train": {"epochs": 3000, "batch_size": 8, "adversary": {"epsilon": 0.01}},
        "score": {"aggregation": "avg"},
    },
    "head_ct": {
        "train": {"epochs": 3000, "batch_size": 8, "adversary": {"epsilon": 0.07}},
        "score": {"aggregation": "avg"},
    },
    "brain_mri": {
        "train": {"epochs": 3000, "batch_size": 8, "adversary": {"epsilon": 0.07}},
        "score": {"aggregation": "avg"},
    },
}

PRESETS: dict[str, Layer] = {
    "paper": {},
    "authors_code": {
        "puzzle": {"per_batch": True},
        "train": {
            "feature_loss": "elementwise",
            "precision": "float32",
            "adversary": {"noise": "twice", "target": "noisy"},
        },
        "score": {"error": "mse", "puzzle_set": "all"},
    },
    "fast": {
        "model": {"initialisation": "he"},
        "train": {"batch_size": 32, "schedule": "one_cycle", "learning_rate": 3e-3},
    },
}

PRESETS_BY_DATASET: dict[str, dict[str, Layer]] = {
    "authors_code": {
        "mnist": {
            "data": {"validation_count": 851},
            "train": {"batch_size": 64, "plateau_factor": 0.5, "plateau_patience": 30},
        },
        "fashion_mnist": {"data": {"validation_count": 851}, "train": {"batch_size": 64}},
        "cifar10": {"data": {"validation_count": 851}, "train": {"batch_size": 64}},
        "coil100": {"data": {"validation_count": 5}, "train": {"batch_size": 64}},
        "mvtec": {"data": {"validation_count": 25}},
        "head_ct": {"data": {"validation_count": 5}},
        "brain_mri": {"data": {"validation_count": 5, "size": 128}},
    },
    # MNIST's was chosen by studies of classes 3 and 8 and confirmed on others; on CIFAR-10 averaged weights are five
    # points behind one-cycle (benchmarks/RESULTS.md). The other epochs are guesses for 2,000 to 8,000 steps, except
    # digits, whose 40 epochs are 160 steps.
    "fast": {
        "mnist": {
            "model": {"base_channels": 12},
            "train": {"epochs": 60, "schedule": "constant", "averaging": 0.998, "adversary": {"method": "none"}},
        },
        "fashion_mnist": {"train": {"epochs": 30}},
        "cifar10": {"train": {"epochs": 60}},
        "coil100": {"train": {"epochs": 1000}},
        "mvtec": {"train": {"epochs": 200}},
        # Minutes for a few hundred images of 128 pixels on a laptop (benchmarks/RESULTS.md).
        "folder": {"model": {"base_channels": 8}, "train": {"epochs": 50, "batch_size": 8}, "evaluate": {"every": 25}},
        "head_ct": {"train": {"epochs": 1000}},
        "brain_mri": {"train": {"epochs": 1000}},
    },
}

VARIANTS: dict[str, Layer] = {
    "PAE": {"puzzle": {"hide": "none"}, "train": {"lambda": 0.0}},
    "CPAE": {"train": {"lambda": 0.0}},
    "CPAE-G": {},
    "Rot-AE": {"puzzle": {"kind": "rotation"}},
}


class PuzzleSettings(DetectorSettings):
    """How puzzles are made, the networks, the training and the score.

    The paper gives batch sizes, aggregations and the zoom augmentation. The rest is the authors' configuration
    (every ε, λ, α, and the epochs of MNIST, Fashion-MNIST, CIFAR-10 and MVTec AD) or ours (the other
    epochs, and everything for digits and folder).
    """

    DATASETS: ClassVar[dict[str, Layer]] = DATASET_DEFAULTS
    PRESETS: ClassVar[dict[str, Layer]] = PRESETS
    PRESETS_BY_DATASET: ClassVar[dict[str, dict[str, Layer]]] = PRESETS_BY_DATASET
    VARIANTS: ClassVar[dict[str, Layer]] = VARIANTS
    FREE: ClassVar[tuple[str, ...]] = ("score.error", "score.aggregation", "score.permutations")
    ALONG: ClassVar[tuple[str, ...]] = ("train.averaging", "train.epochs")
    INERT_BY: ClassVar[dict[str, tuple[str, ...]]] = {
        "train.adversary": ("train.adversary.method", "train.adversary.epsilon", "train.adversary.alpha"),
        "puzzle": ("variant", "puzzle.kind", "puzzle.grid", "puzzle.permutations"),
        "train": ("variant", "train.lambda", "train.schedule"),
        "model": ("variant", "train.lambda"),
    }
    RULES: ClassVar[tuple[Rule, ...]] = RULES
    BUDGET: ClassVar[tuple[str, ...]] = ("train.epochs", "model.base_channels")
    SMALL: ClassVar[Layer] = {
        "model": {"base_channels": 4, "initialisation": "he"},
        "train": {"epochs": 6, "batch_size": 8, "precision": "float32", "learning_rate": 3e-3},
    }
    LARGE: ClassVar[tuple[str, ...]] = ("train.batch_size", "model.base_channels")

    preset: Preset = Field(
        "paper",
        description="Defaults: the paper's; `authors_code`: the authors' published code if it contradicts the paper; "
        "`fast`: an initialisation and a schedule that need far fewer epochs.",
    )
    variant: Variant = Field(
        "CPAE-G",
        description="The paper's ablations (Tables 6 and 8): PAE (no hidden piece, λ 0), CPAE (λ 0), CPAE-G, Rot-AE.",
    )
    puzzle: Puzzle = Field(Puzzle(), description="How puzzles are made.")
    model: Model = Field(Model(), description="The networks.")
    train: Train = Field(Train(), description="The training.")
    score: Score = Field(Score(), description="The anomaly score.")

    @property
    def reading(self) -> Reading:
        """Norm, aggregation and number of permutations of the score."""
        return Reading.of(self.score.error, self.score.aggregation, self.score.permutations)

    @property
    def precision_wanted(self) -> WantedPrecision:
        """Arithmetic of the convolutions."""
        return self.train.precision

    @property
    def epochs_wanted(self) -> int:
        """Epochs at most."""
        return self.train.epochs

    def along(self) -> tuple[str, ...]:
        """Return the average's decay, and the epochs unless the learning rate depends on how many follow."""
        return tuple(name for name in super().along() if name != self.EPOCHS or self.train.schedule != "one_cycle")

    def alike(self) -> Alike:
        """Return the shape of the networks and of a step; λ, ε, α, rates, initialisation and the rest may differ."""
        train, adversary = self.train, self.train.adversary
        attack: Hashable = None
        if adversary.method != "none" and adversary.epsilon > 0:
            steps = adversary.steps if adversary.method == "pgd" else 1
            attack = (adversary.method, steps, adversary.noise, adversary.target)
        discriminator: Hashable = None
        if train.lambda_ > 0:
            discriminator = (self.model.discriminator_channels or self.model.base_channels, train.feature_loss)
        # Images are padded to multiples of the grid; nine pieces may need other sides than four.
        grid = self.puzzle.grid if self.puzzle.kind == "jigsaw" else 1
        shape = (self.model.base_channels, grid, train.epochs, train.precision, attack, discriminator)
        return Alike(shape, train.batch_size)

    def costs(self, images: Images) -> Costs:
        """Return a trial's costs, from the U-Net's multiply-adds."""
        base, adversary = self.model.base_channels, self.train.adversary
        solve = float(ADDS_PER_PIXEL * images.pixels * base * (base + NARROW))
        # Forward, and back to weights and inputs; the adversary goes forward and back to the input in each step.
        steps = {"none": 0, "fgsm": 1, "pgd": adversary.steps}[adversary.method]
        views = scoring_permutations(self, normal_class=images.normal_class, dataset=images.dataset)
        return Costs(fit=0.0, epoch=(3 + 2 * steps) * solve, score=views * solve, views=views)

    def inert(self) -> dict[str, str]:
        """Return the settings that cannot change this configuration's training, each with the reason."""
        train, adversary = self.train, self.train.adversary
        inert: dict[str, str] = {}

        def mark(reason: str, *names: str) -> None:
            inert.update(dict.fromkeys(names, reason))

        if train.lambda_ == 0:
            only_there = ("train.feature_loss", "train.discriminator_learning_rate", "model.discriminator_channels")
            mark("train.lambda is 0 and no discriminator is built", *only_there)
        if adversary.method == "none":
            fields = [f"train.adversary.{name}" for name in Adversary.model_fields if name != "method"]
            mark("train.adversary.method is none", *fields)
        elif adversary.method == "fgsm":
            mark("one step has no number of steps", "train.adversary.steps")
            if adversary.alpha >= 2 * adversary.epsilon:
                mark("FGSM with α ≥ 2ε is ε·sign of the gradient whatever α is", "train.adversary.alpha")
        if train.schedule != "plateau":
            mark(f"train.schedule is {train.schedule}", "train.plateau_factor", "train.plateau_patience")
        if train.schedule != "one_cycle":
            mark(f"train.schedule is {train.schedule}", "train.warm_up")
        if self.puzzle.kind == "rotation":
            mark("images are rotated, not cut", "puzzle.grid", "puzzle.permutations", "puzzle.count", "puzzle.seed")
        elif self.puzzle.grid == 2 or self.puzzle.permutations == "two_swapped":
            mark("only nine-piece permutations are drawn", "puzzle.count", "puzzle.seed")
        return inert
