"""The typed study file: every setting with its meaning, unit and range.

The classes are frozen, refuse unknown keys and are validated once, where a study file enters
(:mod:`puzzle_study.config.read`). This module imports neither torch nor Ray, so that mistakes in a study file
are found, and the documentation is generated, at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from puzzle_study.config.search import AXIS_KINDS as AXIS_KINDS
from puzzle_study.config.search import LABEL_FREE
from puzzle_study.config.search import NEED_TEST_LABELS as NEED_TEST_LABELS
from puzzle_study.config.search import Axis as Axis
from puzzle_study.config.search import Objective as Objective
from puzzle_study.config.search import Racing as Racing
from puzzle_study.config.search import Search as Search
from puzzle_study.config.search import Stopping as Stopping
from puzzle_study.config.types import MOST_BASE_CHANNELS as MOST_BASE_CHANNELS
from puzzle_study.config.types import MOST_EPOCHS as MOST_EPOCHS
from puzzle_study.config.types import MOST_PERMUTATIONS as MOST_PERMUTATIONS
from puzzle_study.config.types import MOST_SEED as MOST_SEED
from puzzle_study.config.types import EachOnce, Fraction, Many, Perturbation
from puzzle_study.config.types import Scalar as Scalar
from puzzle_study.config.types import Section as Section

Aggregation = Literal["min", "avg", "max"]
ErrorNorm = Literal["l2", "mse"]
DatasetName = Literal[
    "digits", "mnist", "fashion_mnist", "cifar10", "coil100", "mvtec", "head_ct", "brain_mri", "folder"
]
Variant = Literal["PAE", "CPAE", "CPAE-G", "Rot-AE"]
Selection = Literal["pseudo_anomalies", "oracle"]
Reference = Literal["nearest_neighbour", "pca", "one_class_svm", "untrained"]
AttackName = Literal["attack1", "attack2", "attack2_averaged"]
AttackMethod = Literal[
    "fgsm",
    "ffgsm",
    "rfgsm",
    "bim",
    "pgd",
    "eotpgd",
    "mifgsm",
    "upgd",
    "nifgsm",
    "sinifgsm",
    "vmifgsm",
    "vnifgsm",
    "difgsm",
    "apgd",
    "pgdl2",
    "apgdl2",
    "square",
    "spsa",
    "noise",
]


class Data(Section):
    """Which images, and how they are split into tasks."""

    name: DatasetName = Field(description="Data set. `folder` is any tree in MVTec AD's layout: your own images.")
    root: str | None = Field(
        None,
        description="Folder with the original files, or with a folder named like the set; null: `data`. A relative "
        "path starts from the folder in which the command runs.",
    )
    size: int | None = Field(
        None, ge=16, le=1024, description="Side of the square image in pixels; null: the set's own."
    )
    normal_classes: Annotated[Many[int | str] | None, EachOnce] = Field(
        None, min_length=1, description="Classes, by number or name, each of which is once the normal one; null: all."
    )
    validation_fraction: float = Field(
        0.15, gt=0, lt=1, description="Share of the normal training images kept for validation (paper, section 4.1)."
    )
    validation_count: int | None = Field(
        None,
        ge=1,
        description="Images kept for validation as a fixed count (authors' code); null, or where it does not fit, or "
        "with a train_fraction below 1: validation_fraction.",
    )
    train_fraction: Fraction = Field(
        1.0, description="Share of the normal training images in use (paper, Table 9 and Fig. 8); 1/12 may be written."
    )
    grayscale: bool = Field(False, description="Convert to one channel by ITU-R 601 luma (colour ablation, Fig. 5).")
    max_train_images: int | None = Field(
        None, ge=2, description="At most so many normal images for training and validation together; null: all."
    )
    max_test_images: int | None = Field(
        None, ge=2, description="At most so many test images, drawn in proportion from each class; null: all."
    )
    augment_to: int | None = Field(
        None, ge=1, description="Zoom augmentation: training images in all, originals included; null: none."
    )
    repeats: int = Field(
        30, ge=1, description="Protocol 1 (COIL-100): how often a random object is drawn as the normal class."
    )
    split_seed: int = Field(0, ge=0, le=MOST_SEED, description="Seed of every random split and draw of the data.")


class Puzzle(Section):
    """How puzzles are made (paper, section 3.1)."""

    kind: Literal["jigsaw", "rotation"] = Field(
        "jigsaw", description="`rotation` turns the image by 90, 180, 270 degrees instead (Rot-AE, section 5)."
    )
    grid: Literal[2, 3] = Field(2, description="Pieces per side: 2 gives 4 pieces, 3 gives 9.")
    permutations: Literal["auto", "all", "two_swapped", "drawn"] = Field(
        "auto",
        description="`all` 23 for grid 2; `two_swapped` the 6 transpositions; `drawn` for grid 3; `auto` picks "
        "two_swapped for MVTec's textures, else all or drawn by grid.",
    )
    count: int = Field(24, ge=1, le=MOST_PERMUTATIONS, description="K, how many permutations are drawn (`drawn` only).")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Seed of that draw; every trial of a study shares it.")
    hide: Literal["auto", "black", "gray", "none"] = Field(
        "auto", description="What one random piece becomes in training; `auto`: black for 1 channel, gray for 3."
    )
    per_batch: bool = Field(
        False, description="One draw of permutation and hidden piece per batch (authors' code), not per image."
    )


class Model(Section):
    """The U-Net and the discriminator."""

    base_channels: int = Field(
        64, ge=1, le=MOST_BASE_CHANNELS, description="Channels of the U-Net's first level (64: 17.3 M weights)."
    )
    discriminator_channels: int | None = Field(
        None,
        ge=1,
        le=MOST_BASE_CHANNELS,
        description="Channels of the discriminator's first level; null: as base_channels.",
    )
    initialisation: Literal["default", "he"] = Field(
        "default", description="U-Net weights: PyTorch's default (authors), or He normal with the last layer × 0.1."
    )


class Adversary(Section):
    """The perturbation of puzzles in training (paper, eq. 1)."""

    method: Literal["fgsm", "pgd", "none"] = Field("fgsm", description="One step, `steps` steps, or no perturbation.")
    epsilon: Perturbation = Field(0.1, description="Bound of the perturbation, pixels in [0, 1]; 8/255 may be written.")
    alpha: float = Field(
        2.0, gt=0, le=10, description="Step size, absolute; with FGSM every α ≥ 2ε gives ε·sign of the gradient."
    )
    steps: int = Field(7, ge=1, le=100, description="Steps of PGD.")
    noise: Literal["once", "twice"] = Field(
        "once", description="`twice` (authors' code): the start noise stays in the input, effective bound 2ε."
    )
    target: Literal["clean", "noisy"] = Field(
        "clean",
        description="What the adversary's loss compares with: the clean puzzle (paper) or, not clamped, the noisy one.",
    )


class Train(Section):
    """Losses, optimisers, schedule and stopping of a training."""

    epochs: int = Field(600, ge=0, le=MOST_EPOCHS, description="Epochs at most; 0 leaves the network untrained.")
    batch_size: int = Field(128, ge=1, le=4096, description="Images a step.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's learning rate for the U-Net.")
    discriminator_learning_rate: float = Field(2e-4, gt=0, le=1, description="Adam's for the discriminator (β₁ = 0.5).")
    weight_decay: float = Field(1e-5, ge=0, le=1, description="L2 penalty on the U-Net's weights (eq. 8).")
    schedule: Literal["plateau", "one_cycle", "constant"] = Field(
        "plateau",
        description="Learning rate of the U-Net: × plateau_factor where the loss stands still (paper), one-cycle "
        "(linear warm-up, cosine to 0) or constant.",
    )
    warm_up: float = Field(
        0.1, ge=0, lt=1, description="Share of the epochs over which one-cycle rises from a twentieth to its peak."
    )
    averaging: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay, a step, of the moving average of the U-Net's weights that scores, (1 + n) / (10 + n) after "
        "n steps where that is less; 0: the last weights.",
    )
    plateau_factor: float = Field(0.8, gt=0, lt=1, description="Factor on a plateau.")
    plateau_patience: int = Field(
        50, ge=1, description="Epochs in a row without a new minimum that are no plateau yet; one more is."
    )
    lambda_: float = Field(
        0.02, ge=0, le=100, alias="lambda", description="λ, weight of the feature-matching loss; 0: no discriminator."
    )
    feature_loss: Literal["batch_mean", "elementwise"] = Field(
        "batch_mean", description="Feature matching against the batch mean (eq. 3) or element by element (authors)."
    )
    convergence_epochs: int | None = Field(
        None, ge=1, description="Stop after so many epochs without a new minimum of the loss; null: never early."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of the convolutions; `auto`: bfloat16 where the hardware multiplies it natively.",
    )
    adversary: Adversary = Field(Adversary(), description="Perturbation of the puzzles in training.")


class Score(Section):
    """From a trained network to one anomaly score an image (paper, section 3.2)."""

    error: ErrorNorm = Field("l2", description="Root of the mean square error (eq. 5), or mean square (authors' code).")
    aggregation: Aggregation = Field("max", description="Over the K normalised errors (eq. 7).")
    permutations: Literal["all"] | int = Field(
        "all", description="How many of the K permutations score an image; a number takes the first of a seeded order."
    )
    puzzle_set: Literal["training", "all"] = Field(
        "training", description="Permutations in scoring: those of training, or all 23 (authors' code for textures)."
    )

    @model_validator(mode="after")
    def _some_permutations(self) -> Score:
        if isinstance(self.permutations, int) and self.permutations < 1:
            raise ValueError("permutations must be `all` or at least 1")
        return self


class Evaluate(Section):
    """The AUROC along training; it never influences training or selection."""

    every: int = Field(5, ge=1, description="Epochs between two evaluations; the last epoch is always evaluated.")
    max_images: int | None = Field(
        500, ge=2, description="Test images of an evaluation, drawn in proportion from each class; null: all."
    )
    selection: bool = Field(
        False, description="Also follow the label-free selection criterion along training; `search.stopping` needs it."
    )
    robust: Robust | None = Field(
        None, description="Attack at the end of training: `robust_auroc` and `robust_selection`; left out: none."
    )


class Robust(Section):
    """A small attack at the end of every training, so that a search can ask for robustness."""

    method: Literal["fgsm", "pgd"] = Field("fgsm", description="attack1 by one step, or by `steps` steps.")
    epsilon: Perturbation = Field(0.1, description="Bound of the perturbation, pixels in [0, 1].")
    steps: int = Field(10, ge=1, le=1000, description="Steps of PGD.")
    max_images: int = Field(
        64,
        ge=2,
        description="Images attacked at most, of the normal test and of the validation images each; up to as many "
        "anomalous test images are only scored.",
    )


class Attacks(Section):
    """The test-time attacks of a study (paper, section 4.3)."""

    configurations: Many[Literal["winner", "default", "all"]] = Field(
        ("winner", "default"),
        min_length=1,
        description="Which configurations are attacked: the winner under the reading (error, aggregation) that won; "
        "the default, or every one that is complete (`all`), under the study's own `score`.",
    )
    top: int | None = Field(
        None,
        ge=1,
        description="Besides them the n best by selection, each under the reading that it was ranked by; null: none.",
    )
    attacks: Many[AttackName] = Field(
        ("attack1", "attack2"),
        min_length=1,
        description="The paper's two attacks, and `attack2_averaged`: attack2, its gradients averaged before the sign.",
    )
    methods: Many[AttackMethod] = Field(
        ("fgsm", "pgd", "noise"), min_length=1, description="How δ is found; `noise`, random signs, is the control."
    )
    epsilons: Many[Perturbation] = Field(
        (0.05, 0.1, 0.2), min_length=1, description="Bounds of the perturbation, pixels in [0, 1]."
    )
    steps: int = Field(10, ge=1, le=1000, description="Steps of iterated methods.")
    step_size: float = Field(0.25, gt=0, le=2, description="Step of iterated methods as a fraction of ε.")
    restarts: int = Field(
        1, ge=1, le=100, description="Runs of methods with a random start; the best is kept image by image."
    )
    queries: int = Field(200, ge=1, le=100_000, description="Scores that `square` and `spsa` may ask of each image.")
    target: Literal["normal", "anomalous", "both"] = Field(
        "normal", description="Whose images are attacked: normal ones up (paper), anomalous ones down, or both."
    )
    max_images: int | None = Field(None, ge=2, description="Test images attacked, in proportion by class; null: all.")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Seed of random starts and of the noise.")
    matrix: bool = Field(
        False,
        description="Also attack each aggregation and score by each: aggregation_matrix.csv, by attack1, the first "
        "of `methods` that is not noise and the largest ε.",
    )
    transfer: bool = Field(
        False,
        description="Also score what was made against one attacked configuration by the others, on the same task and "
        "seed: transfer.csv, by the same attack as `matrix`.",
    )

    @model_validator(mode="after")
    def _something_to_transfer(self) -> Attacks:
        if (self.matrix or self.transfer) and set(self.methods) == {"noise"}:
            raise ValueError("matrix and transfer need a method besides noise")
        return self


class Resources(Section):
    """What one trial occupies."""

    cpu: float = Field(1.0, gt=0, description="CPU cores a trial; PyTorch's threads follow it.")
    gpu: float = Field(0.0, ge=0, description="GPUs a trial; 0.25 runs four on one, 0 trains on the CPU.")


class Settings(Section):
    """A configuration: all settings that are fixed before training."""

    variant: Variant = Field(
        "CPAE-G",
        description="The paper's ablations (Tables 6 and 8): PAE (no hidden piece, λ 0), CPAE (λ 0), CPAE-G, Rot-AE.",
    )
    data: Data = Field(description="Which images, and how they are split into tasks.")
    puzzle: Puzzle = Field(Puzzle(), description="How puzzles are made.")
    model: Model = Field(Model(), description="The networks.")
    train: Train = Field(Train(), description="The training.")
    score: Score = Field(Score(), description="The anomaly score.")
    evaluate: Evaluate = Field(Evaluate(), description="The AUROC along training.")


class Study(Settings):
    """A whole study file, resolved."""

    name: str = Field(
        max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Results go to results/<name>."
    )
    preset: Literal["paper", "authors_code", "fast"] = Field(
        "paper",
        description="Where paper and authors' code differ: whose choice; `fast`: He, another schedule, fewer epochs.",
    )
    seeds: Annotated[Many[Annotated[int, Field(ge=0, le=MOST_SEED)]], EachOnce] = Field(
        (0,), min_length=1, description="Training seeds: every configuration is trained with each of them."
    )
    search: Search | None = Field(None, description="What is searched; left out: the one configuration is trained.")
    selection: Selection = Field(
        "pseudo_anomalies",
        description="How the winner is chosen: AUROC of validation images against pseudo-anomalies made of them, or "
        "`oracle`, the test AUROC, labelled so everywhere.",
    )
    references: Annotated[Many[Reference], EachOnce] = Field(
        ("nearest_neighbour", "pca", "one_class_svm", "untrained"),
        description="Detectors that cost nothing, reported beside every AUROC.",
    )
    attacks: Attacks | None = Field(None, description="Test-time attacks; left out: none.")
    resources: Resources = Field(Resources(), description="What one trial occupies.")
    max_concurrent: int | None = Field(
        None, ge=1, description="Trials and attack units at once; null: as many as the resources allow."
    )
    loggers: Many[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        (), description="Ray's loggers that follow every trial; each wants its own package installed."
    )
    storage: str | None = Field(
        None,
        description="On a cluster: a folder that every node sees, or an s3:// or gs:// URL; null: the results folder. "
        "A relative path starts from the folder in which the command runs.",
    )

    @model_validator(mode="after")
    def _measured(self) -> Study:
        search = self.search
        if search is None:
            return self
        objectives = search.objectives or ()
        labelled = [name for name in objectives if name in NEED_TEST_LABELS]
        if labelled and self.selection != "oracle":
            raise ValueError(
                f"search.objectives {labelled[0]} uses test labels; say selection: oracle, or use "
                f"{LABEL_FREE.get(labelled[0], 'selection')}"
            )
        if any(name.startswith("robust_") for name in objectives) and self.evaluate.robust is None:
            raise ValueError("robust objectives need evaluate.robust, for example {epsilon: 0.1}")
        if search.stopping is not None and not self.evaluate.selection:
            raise ValueError("search.stopping needs evaluate.selection: true, which it compares")
        return self
