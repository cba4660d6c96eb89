"""The typed study file: every setting with its meaning, unit and range.

The classes are frozen, refuse unknown keys and are validated once, where a study file enters
(:mod:`puzzle_study.config.read`). This module imports neither torch nor Ray, so that ``--help`` and the generated
documentation stay instant. What belongs to one detector stands in that detector's own module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from puzzle_study.attacks.methods import METHODS
from puzzle_study.attacks.registry import PLACES
from puzzle_study.config.search import LABEL_FREE, NEED_TEST_LABELS, Search
from puzzle_study.config.types import (
    MOST_SEED,
    DetectorSettings,
    EachOnce,
    Fraction,
    Many,
    Perturbation,
    Section,
)
from puzzle_study.criteria.registry import CRITERIA
from puzzle_study.datasets.catalogue import DATASETS
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.registry import OneOf

DatasetName = Annotated[str, OneOf(lambda: DATASETS)]
DetectorName = Annotated[str, OneOf(lambda: DETECTORS)]
Selection = Annotated[str, OneOf(lambda: CRITERIA)]
AttackName = Annotated[str, OneOf(lambda: PLACES)]
AttackMethod = Annotated[str, OneOf(lambda: METHODS)]
CHEAP = ("nearest_neighbour", "pca", "one_class_svm", "untrained")


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
    """A configuration: a detector and all settings that are fixed before training."""

    detector: DetectorName = Field(description="Name of the detector.")
    data: Data = Field(description="Which images, and how they are split into tasks.")
    evaluate: Evaluate = Field(Evaluate(), description="The AUROC along training.")
    own: SerializeAsAny[DetectorSettings] = Field(description="The detector's own settings.")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Settings:
        """Return what ``model_dump(mode="json", by_alias=True)`` described.

        Raises:
            UserError: there is no such detector.
            ValueError: a setting is missing, unknown or out of its range.
        """
        own = DETECTORS[content["detector"]].Settings.model_validate(content["own"])
        return cls.model_validate({**content, "own": own})


class Study(Section):
    """A whole study file, resolved."""

    name: str = Field(
        max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Results go to results/<name>."
    )
    data: Data = Field(description="Which images, and how they are split into tasks.")
    detectors: dict[DetectorName, SerializeAsAny[DetectorSettings]] = Field(
        min_length=1,
        description="The detectors, each with its own settings; or `detector: NAME`, whose sections stand at the top.",
    )
    evaluate: Evaluate = Field(Evaluate(), description="The AUROC along training.")
    seeds: Annotated[Many[Annotated[int, Field(ge=0, le=MOST_SEED)]], EachOnce] = Field(
        (0,), min_length=1, description="Training seeds: every configuration is trained with each of them."
    )
    search: Search | None = Field(
        None, description="What is searched; left out: each detector is trained with its own settings."
    )
    selection: Selection = Field(
        "pseudo_anomalies",
        description="How the winner is chosen: AUROC of validation images against pseudo-anomalies made of them, or "
        "`oracle`, the test AUROC, labelled so everywhere.",
    )
    references: Annotated[Many[DetectorName], EachOnce] = Field(
        CHEAP, description="Detectors with default settings, trained once a task, reported beside every AUROC."
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

    @property
    def first(self) -> str:
        """Name of the first detector, whose default settings are the study's own."""
        return next(iter(self.detectors))

    def settings(self, detector: str | None = None) -> Settings:
        """Return a detector's default configuration; None: the first one's."""
        name = detector or self.first
        return Settings(detector=name, data=self.data, evaluate=self.evaluate, own=self.detectors[name])

    @model_validator(mode="after")
    def _measured(self) -> Study:
        search = self.search
        if search is None:
            return self
        objectives = search.objectives or ()
        labelled = [name for name in objectives if name in NEED_TEST_LABELS]
        if labelled and not CRITERIA[self.selection].uses_labels:
            raise ValueError(
                f"search.objectives {labelled[0]} uses test labels; say selection: oracle, or use "
                f"{LABEL_FREE.get(labelled[0], 'selection')}"
            )
        if any(name.startswith("robust_") for name in objectives) and self.evaluate.robust is None:
            raise ValueError("robust objectives need evaluate.robust, for example {epsilon: 0.1}")
        if search.stopping is not None and not self.evaluate.selection:
            raise ValueError("search.stopping needs evaluate.selection: true, which it compares")
        return self
