"""The typed study file: every setting with its meaning, unit and range.

The classes are frozen, refuse unknown keys and are validated once, where a study file enters
(:mod:`puzzle_study.config.read`). This module imports neither torch nor Ray, so that ``--help`` and the generated
documentation stay instant. A detector's own settings are in that detector's module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from puzzle_study.config.attacks import Attacks
from puzzle_study.config.corruptions import Corrupted, Corruptions, Kind
from puzzle_study.config.search import LABEL_FREE, NEED_TEST_LABELS, Search
from puzzle_study.config.types import (
    AttackSteps,
    DetectorSettings,
    EachOnce,
    Fraction,
    ImageCount,
    Many,
    MostImages,
    OneOf,
    Perturbation,
    Section,
    Seed,
    unit,
)
from puzzle_study.criteria.expecting import Expected
from puzzle_study.criteria.kinds.registry import KINDS
from puzzle_study.criteria.registry import CRITERIA
from puzzle_study.datasets.catalogue import DATASETS
from puzzle_study.detectors.registry import DETECTORS

DatasetName = Annotated[str, OneOf(lambda: DATASETS)]
DetectorName = Annotated[str, OneOf(lambda: DETECTORS)]
Selection = Annotated[str, OneOf(lambda: CRITERIA)]
KindName = Annotated[str, OneOf(lambda: KINDS)]
CHEAP = ("nearest_neighbour", "pca", "one_class_svm", "untrained")


class Data(Section):
    """Which images, and how they are split into tasks."""

    name: DatasetName = Field(description="Data set. `folder`: your own images, in MVTec AD's layout.")
    root: str | None = Field(
        None,
        description="Folder with the original files, or with a folder named like the data set; null: `data`. A "
        "relative path starts from the folder in which the command runs.",
    )
    size: int | None = Field(
        None,
        ge=16,
        le=1024,
        json_schema_extra=unit("pixels"),
        description="Side of the square image in pixels; null: the data set's own.",
    )
    normal_classes: Annotated[Many[int | str] | None, EachOnce] = Field(
        None, min_length=1, description="Classes by number or name; each is the normal class of one task; null: all."
    )
    validation_fraction: float = Field(
        0.15,
        gt=0,
        lt=1,
        json_schema_extra=unit("share"),
        description="Share of the normal training images kept for validation (paper, section 4.1).",
    )
    validation_count: ImageCount | None = Field(
        None,
        description="Fixed number of images kept for validation (authors' code); null: validation_fraction, which also "
        "applies if the number does not fit or train_fraction is below 1.",
    )
    train_fraction: Fraction = Field(
        1.0,
        json_schema_extra=unit("share"),
        description="Share of the normal training images in use (paper, Table 9 and Fig. 8); 1/12 may be written.",
    )
    grayscale: bool = Field(False, description="Convert to one channel by ITU-R 601 luma (colour ablation, Fig. 5).")
    max_train_images: MostImages | None = Field(
        None, description="Most normal images for training and validation together; null: all."
    )
    max_test_images: MostImages | None = Field(
        None, description="Most test images, drawn in proportion from each class; null: all."
    )
    augment_to: ImageCount | None = Field(
        None, description="Zoom augmentation: number of training images after it, originals included; null: none."
    )
    augment: Annotated[Many[Kind], EachOnce] = Field(
        (),
        description="Corruptions to train on, each at severity 1, 2 or 3. In every epoch an image is left as it is or "
        "changed by one of them; detectors without epochs are fitted on the images and as many changed copies of each "
        "as there are corruptions, at most 4. Validation and test images stay as they are.",
    )
    repeats: int = Field(
        30,
        ge=1,
        json_schema_extra=unit("draws"),
        description="Protocol 1 (COIL-100): number of random draws of a normal object.",
    )
    split_seed: Seed = Field(0, description="Seed of every random split and draw of the data.")

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return 1 if self.grayscale else int(DATASETS[self.name].channels)


class Evaluate(Section):
    """The test AUROC during training; it never influences training or selection."""

    every: int = Field(
        5,
        ge=1,
        json_schema_extra=unit("epochs"),
        description="Epochs between evaluations; the last epoch is always evaluated.",
    )
    max_images: MostImages | None = Field(
        500, description="Most test images per evaluation, drawn in proportion from each class; null: all."
    )
    selection: bool = Field(
        False,
        description="Also compute the label-free selection criterion during training; `search.stopping` needs it.",
    )
    views: int | None = Field(
        None,
        ge=1,
        json_schema_extra=unit("views"),
        description="Views, such as permutations, that score images along the training, and pseudo-anomalies at its "
        "end: the selection is measured by so many of a detector's views, spread evenly over them; null: all. The "
        "test AUROC, saved detectors and attacks always use all.",
    )
    robust: Robust | None = Field(
        None, description="Attack at the end of training, for `robust_auroc` and `robust_selection`; left out: none."
    )
    corrupted: Corrupted | None = Field(
        None,
        description="Corrupt held-out images at the end of training, for `corrupted_selection` and `corrupted_fpr`; "
        "left out: none.",
    )

    @model_validator(mode="after")
    def _comparable(self) -> Evaluate:
        if self.views is not None and self.robust is not None:
            raise ValueError(
                "evaluate.views scores pseudo-anomalies by fewer views than evaluate.robust attacks; leave one of the "
                "two out"
            )
        return self


class Robust(Section):
    """A small attack at the end of every training, so that a search can optimise robustness."""

    method: Literal["fgsm", "pgd"] = Field(
        "fgsm", description="attack1 in one step (`fgsm`) or in `steps` steps (`pgd`)."
    )
    epsilon: Perturbation = Field(0.1, description="Bound of the perturbation, pixels in [0, 1].")
    steps: AttackSteps = Field(10, description="Steps of PGD.")
    max_images: MostImages = Field(
        64,
        description="Most normal test images attacked, and most validation images; at most as many anomalous test "
        "images are scored without attack.",
    )


MOST_FUSED = 64


class Resources(Section):
    """What one trial uses."""

    cpu: float = Field(
        1.0,
        gt=0,
        json_schema_extra=unit("cores"),
        description="CPU cores per trial; also the number of PyTorch's threads.",
    )
    gpu: float = Field(
        0.0,
        ge=0,
        json_schema_extra=unit("GPUs"),
        description="GPUs per trial; with 0.25, four trials share one and its memory; 0 trains on the CPU.",
    )
    fuse: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_FUSED)] = Field(
        1,
        json_schema_extra=unit("trials"),
        description="Most trials of equal shape that train together as one network in one process, with the numbers of "
        "single ones to rounding; `auto`: 1 on a CPU, up to 8 on a GPU while all workers are busy.",
    )


class Settings(Section):
    """A configuration: a detector and all settings that are fixed before training."""

    detector: DetectorName = Field(description="Name of the detector.")
    data: Data = Field(description="Which images, and how they are split into tasks.")
    evaluate: Evaluate = Field(Evaluate(), description="The AUROC during training.")
    own: SerializeAsAny[DetectorSettings] = Field(description="The detector's own settings.")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Settings:
        """Return settings written by ``model_dump(mode="json", by_alias=True)``, or raise UserError or ValueError."""
        own = DETECTORS[content["detector"]].Settings.model_validate(content["own"])
        return cls.model_validate({**content, "own": own})


class Study(Section):
    """A study file with every default filled in."""

    name: str = Field(
        max_length=200,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="The study's name; its results go to results/NAME.",
    )
    data: Data = Field(description="Which images, and how they are split into tasks.")
    detectors: dict[DetectorName, SerializeAsAny[DetectorSettings]] = Field(
        min_length=1,
        description="The detectors, each with its own settings; or `detector: NAME`, with its sections at the top.",
    )
    evaluate: Evaluate = Field(Evaluate(), description="The AUROC during training.")
    seeds: Annotated[Many[Seed], EachOnce] = Field(
        (0,), min_length=1, description="Training seeds; every configuration is trained with each."
    )
    search: Search | None = Field(
        None, description="What is searched; left out: only the default of each detector is trained."
    )
    selection: Selection = Field(
        CRITERIA.default,
        description="How the winner is chosen (docs/selection.md): by the AUROC of validation images against "
        "pseudo-anomalies made from them, by another criterion without labels, or by the test AUROC (`oracle`; all "
        "results then say so).",
    )
    choose: Literal["overall", "per_task"] = Field(
        "overall",
        description="One winner for all tasks, or one for each (`per_task`); attacks and gallery are of the best "
        "configuration overall in both.",
    )
    expect: Expected = Field(
        "unknown",
        description="What anomalies are expected: small `defects` of the same thing, `other_objects`, or `unknown`. It "
        "weights the kinds of pseudo-anomalies.",
    )
    kinds: Annotated[Many[KindName] | None, EachOnce] = Field(
        None, min_length=1, description="Kinds of pseudo-anomalies that count in the selection; null: all."
    )
    references: Annotated[Many[DetectorName], EachOnce] = Field(
        CHEAP,
        description="Detectors to compare with: default settings, trained once per task, reported beside every AUROC.",
    )
    attacks: Attacks | None = Field(None, description="Test-time attacks; left out: none.")
    corruptions: Corruptions | None = Field(None, description="Natural changes of the test images; left out: none.")
    resources: Resources = Field(Resources(), description="What one trial uses.")
    max_concurrent: int | None = Field(
        None,
        ge=1,
        json_schema_extra=unit("trials"),
        description="Most trials, attacks or corruptions at once; null: as many as the resources allow.",
    )
    loggers: Many[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        (), description="Ray's loggers for every trial; each needs its own package."
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
    def _choosable(self) -> Study:
        criterion, objectives = CRITERIA[self.selection], self.search.objectives if self.search else None
        if objectives and (criterion.compares or self.choose == "per_task"):
            what = f"selection: {self.selection}" if criterion.compares else "choose: per_task"
            raise ValueError(f"{what} and search.objectives both choose the winner; leave one of them out")
        if criterion.blends and self.evaluate.views is not None:
            raise ValueError(
                f"selection: {self.selection} needs pseudo-anomalies that are scored by all views; leave "
                f"evaluate.views out"
            )
        once = [name for name, own in self.detectors.items() if own.epochs_wanted <= self.evaluate.every]
        if criterion.repeated and len(self.seeds) == 1 and once:
            raise ValueError(
                f"selection: {self.selection} compares seeds, or evaluations along a training, and {once[0]} has one "
                f"of each; give at least two seeds"
            )
        return self

    @model_validator(mode="after")
    def _measured(self) -> Study:
        search = self.search
        if search is None:
            return self
        objectives = search.objectives or ()
        labelled = [name for name in objectives if name in NEED_TEST_LABELS]
        if labelled and not CRITERIA[self.selection].uses_labels:
            raise ValueError(
                f"search.objectives {labelled[0]} uses test labels; set selection: oracle, or use "
                f"{LABEL_FREE.get(labelled[0], 'selection')}"
            )
        if any(name.startswith("robust_") for name in objectives) and self.evaluate.robust is None:
            raise ValueError("robust objectives need evaluate.robust, for example {epsilon: 0.1}")
        if any(name.startswith("corrupted_") for name in objectives) and self.evaluate.corrupted is None:
            raise ValueError("corrupted objectives need evaluate.corrupted, for example {severity: 2}")
        if search.stopping is not None and not self.evaluate.selection:
            raise ValueError("search.stopping needs evaluate.selection: true, which it compares")
        return self
