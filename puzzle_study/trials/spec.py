"""What a trial is, before it runs: its specification, its name, and which settings can matter to it.

Imports no torch, so that plans stay light.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from puzzle_study import config
from puzzle_study.datasets import TaskSpec
from puzzle_study.results import RECORD_FORMAT, content_key

PUZZLE_AE = "puzzle_ae"
UNTRAINED = "untrained"
EVALUATION_ONLY = ("error", "aggregation")


@dataclass(frozen=True)
class TrialSpec:
    """What determines a trial: detector, configuration, task, seed and the images themselves.

    Attributes:
        detector: ``puzzle_ae`` or the name of a reference.
        settings: the configuration; its evaluation-only settings do not count.
        task: which one-class problem.
        seed: one of the study's seeds; the training itself draws from :attr:`training_seed`.
        fingerprint: content of the data set.
    """

    detector: str
    settings: config.Settings
    task: TaskSpec
    seed: int
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain values, to be sent to a worker."""
        return {
            "detector": self.detector,
            "settings": self.settings.model_dump(mode="json", by_alias=True),
            "task": asdict(self.task),
            "seed": self.seed,
            "fingerprint": self.fingerprint,
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> TrialSpec:
        """Return what :meth:`to_json` described."""
        settings = config.Settings.model_validate(content["settings"])
        task = TaskSpec(**content["task"])
        return TrialSpec(content["detector"], settings, task, content["seed"], content["fingerprint"])

    @cached_property
    def configuration(self) -> str:
        """Name of the configuration: the hash of what determines training, or the name of the reference."""
        if self.detector != PUZZLE_AE:
            return self.detector
        return content_key(trained_settings(self.settings), length=8)

    @cached_property
    def training_seed(self) -> int:
        """Seed of the training's weights and draws, below 2^60: the hash of seed, data set, normal class and repeat.

        With the study's seed itself all classes would start from the same weights and draw the same stream, and a
        lucky seed would be lucky for all of them: intervals of a mean over classes want independent trainings.
        Configurations share it, so that they are compared on the same draws.
        """
        return int(content_key({"seed": self.seed, "task": asdict(self.task)}, length=15), 16)

    @cached_property
    def key(self) -> str:
        """Name of the trial, under which everything it leaves is kept."""
        settings = trained_settings(self.settings)
        if self.detector not in (PUZZLE_AE, UNTRAINED):
            settings = {"data": settings["data"]}
        return content_key(
            {
                "format": RECORD_FORMAT,
                "detector": self.detector,
                "settings": settings,
                "task": asdict(self.task),
                "seed": self.seed,
                "data": self.fingerprint,
            }
        )


def trained_settings(settings: config.Settings) -> dict[str, Any]:
    """Return the settings that training and error matrices depend on, in one form for equal trainings.

    What cannot matter is left out: aggregation and norm, where the files are, a discriminator that is never built,
    a step size of FGSM that leaves only the sign.
    """
    content = settings.model_dump(mode="json", by_alias=True)
    del content["variant"]
    for name in EVALUATION_ONLY:
        del content["score"][name]
    for name in ("root", "normal_classes", "repeats"):
        del content["data"][name]
    inert = inert_settings(settings)
    for dotted in inert:
        section, _, name = dotted.rpartition(".")
        holder = content
        for part in section.split("."):
            holder = holder[part]
        holder.pop(name, None)
    return content


INERT_BY: dict[str, tuple[str, ...]] = {
    "train.adversary": ("train.adversary.method", "train.adversary.epsilon", "train.adversary.alpha"),
    "puzzle": ("variant", "puzzle.kind", "puzzle.grid", "puzzle.permutations", "score.permutations"),
    "train": ("variant", "train.lambda", "train.schedule"),
    "model": ("variant", "train.lambda"),
}
"""The settings that decide which ones of a section are inert, by the section's name."""


def inert_settings(settings: config.Settings) -> dict[str, str]:
    """Return the settings that cannot change this configuration's training, each with the reason."""
    train, adversary = settings.train, settings.train.adversary
    inert: dict[str, str] = {}

    def mark(reason: str, *names: str) -> None:
        inert.update(dict.fromkeys(names, reason))

    if train.lambda_ == 0:
        mark(
            "train.lambda is 0 and no discriminator is built",
            "train.feature_loss",
            "train.discriminator_learning_rate",
            "model.discriminator_channels",
        )
    fields = [f"train.adversary.{name}" for name in config.Adversary.model_fields if name != "method"]
    if adversary.method == "none":
        mark("train.adversary.method is none", *fields)
    elif adversary.method == "fgsm":
        mark("one step has no number of steps", "train.adversary.steps")
        if adversary.alpha >= 2 * adversary.epsilon:
            mark("FGSM with α ≥ 2ε is ε·sign of the gradient whatever α is", "train.adversary.alpha")
    if settings.evaluate.robust is not None and settings.evaluate.robust.method == "fgsm":
        mark("one step has no number of steps", "evaluate.robust.steps")
    if train.schedule != "plateau":
        mark(f"train.schedule is {train.schedule}", "train.plateau_factor", "train.plateau_patience")
    if train.schedule != "one_cycle":
        mark(f"train.schedule is {train.schedule}", "train.warm_up")
    # The seed draws nine-piece permutations, and those of scoring where score.permutations is a number.
    seed = ("puzzle.seed",) if settings.score.permutations == "all" else ()
    if settings.puzzle.kind == "rotation":
        mark("images are turned, not cut", "puzzle.grid", "puzzle.permutations", "puzzle.count", *seed)
    elif settings.puzzle.grid == 2 or settings.puzzle.permutations == "two_swapped":
        mark("permutations are drawn for nine pieces only", "puzzle.count", *seed)
    return inert


def failed_record(spec: TrialSpec, reason: str) -> dict[str, Any]:
    """Return the record of a trial that could not write one itself."""
    return describe(spec) | {"status": "failed", "error": reason, "seconds": 0.0}


def resolve_reference(name: str, settings: config.Settings) -> config.Settings:
    """Return the configuration that a reference stands beside; the untrained network is trained for 0 epochs."""
    if name != UNTRAINED:
        return settings
    train = settings.train.model_copy(update={"epochs": 0, "lambda_": 0.0})
    return settings.model_copy(update={"train": train})


def describe(spec: TrialSpec) -> dict[str, Any]:
    return spec.to_json() | {"format": RECORD_FORMAT, "trial": spec.key, "configuration": spec.configuration}
