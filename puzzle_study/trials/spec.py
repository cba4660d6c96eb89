"""What a trial is, before it runs: its specification, its name, and which settings can matter to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from puzzle_study import config
from puzzle_study.config import forms, layers
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.results import RECORD_FORMAT, content_key

NAMES = ("preset", "variant")
"""Settings that stand for others, which say all there is."""


@dataclass(frozen=True)
class TrialSpec:
    """What determines a trial: configuration, task, seed and the images themselves.

    Attributes:
        settings: the configuration; settings that need no training do not count.
        task: which one-class problem.
        seed: one of the study's seeds; the training itself draws from :attr:`training_seed`.
        fingerprint: hash of the data set's content.
        views: numbers of views by which the trained detector is read too; they determine nothing.
        along: settings of the detector of which other trials of the study have other values, met along one training
            with this one; they determine nothing beyond their values.
    """

    settings: config.Settings
    task: TaskSpec
    seed: int
    fingerprint: str
    views: tuple[int, ...] = field(default=(), compare=False)
    along: tuple[str, ...] = field(default=(), compare=False)

    @property
    def detector(self) -> str:
        return self.settings.detector

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain values, to be sent to a worker."""
        return {
            "detector": self.detector,
            "settings": self.settings.model_dump(mode="json", by_alias=True),
            "task": asdict(self.task),
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "views": list(self.views),
        } | ({"along": list(self.along)} if self.along else {})

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> TrialSpec:
        """Return what :meth:`to_json` described."""
        settings = config.Settings.from_json(content["settings"])
        task, views = TaskSpec(**content["task"]), tuple(content.get("views", ()))
        along = tuple(content.get("along", ()))
        return TrialSpec(settings, task, content["seed"], content["fingerprint"], views, along)

    @property
    def numbers_of_views(self) -> tuple[int, ...]:
        """Numbers of views by which the detector is read besides all: its own settings' among them."""
        own = self.settings.own.reading.views
        return tuple(sorted({*self.views, *(() if own is None else (own,))}))

    @cached_property
    def configuration(self) -> str:
        """The hash of what determines training: it stands for the configuration in keys and tables."""
        return content_key(trained_settings(self.settings), length=8)

    @cached_property
    def training_seed(self) -> int:
        """Seed of the training's weights and draws, below 2^60: the hash of seed, data set, normal class and repeat.

        With the study's seed itself all classes would share their weights and draws, and a lucky seed would be lucky
        for all of them: intervals of a mean over classes need independent trainings. Configurations share this seed, so
        that they are compared on the same draws.
        """
        return int(content_key({"seed": self.seed, "task": asdict(self.task)}, length=15), 16)

    @cached_property
    def key(self) -> str:
        """Name of the trial, under which everything it leaves is kept."""
        return self._key(())

    @cached_property
    def stem(self) -> str:
        """Name of its training: equal for trials that one training answers; the key if there are no others."""
        return self._key(self.along) if self.along else self.key

    @cached_property
    def way(self) -> str:
        """Name of what it has in common with the prefixes of its training, for trials with equal stems."""
        return self._key([name for name in self.along if name == self.settings.own.EPOCHS])

    def _key(self, left_out: Iterable[str]) -> str:
        settings = trained_settings(self.settings)
        for name in left_out:
            _remove(settings["own"], name)
        return content_key(
            {
                "format": RECORD_FORMAT,
                "settings": settings,
                "task": asdict(self.task),
                "seed": self.seed,
                "data": self.fingerprint,
            }
        )


def by_training(specs: Iterable[TrialSpec]) -> list[list[TrialSpec]]:
    """Return trials by the training that answers them, in the order of its first trial."""
    found: dict[str, list[TrialSpec]] = {}
    for spec in specs:
        found.setdefault(spec.stem, []).append(spec)
    return list(found.values())


def configuration_name(number: int, configuration: str) -> str:
    """Return what people call a configuration: its number in the order of choosing, and its hash."""
    return f"{number} ({configuration})"


def trained_settings(settings: config.Settings) -> dict[str, Any]:
    """Return the settings that training and error matrices depend on, in one form for equal trainings.

    What cannot matter is left out: how error matrices are read, where the files are, what other settings switch off.
    """
    own: dict[str, Any] = settings.own.model_dump(mode="json", by_alias=True)
    content: dict[str, Any] = settings.model_dump(mode="json", by_alias=True, exclude={"own"})
    for name in ("root", "normal_classes", "repeats"):
        del content["data"][name]
    if not settings.data.augment:
        del content["data"]["augment"]  # trials of before there was this setting keep their keys
    if not settings.own.epochs_wanted:
        # Nothing is followed along a training that has no epochs.
        content["evaluate"] = {name: content["evaluate"][name] for name in ("views", "robust", "corrupted")}
    if settings.evaluate.views is None or not DETECTORS[settings.detector].traits.views:
        del content["evaluate"]["views"]  # trials of before there was this setting keep their keys
    if settings.evaluate.corrupted is None:
        del content["evaluate"]["corrupted"]  # trials of before there was this setting keep their keys
    for name in (*NAMES, *settings.own.FREE, *settings.own.inert()):
        _remove(own, name)
    if settings.evaluate.robust is not None and settings.evaluate.robust.method == "fgsm":
        del content["evaluate"]["robust"]["steps"]
    return content | {"own": own}


def inert_settings(settings: config.Settings) -> dict[str, str]:
    """Return the settings that cannot change this configuration's training, each with the reason."""
    inert = dict(settings.own.inert())
    if settings.evaluate.robust is not None and settings.evaluate.robust.method == "fgsm":
        inert["evaluate.robust.steps"] = "one step has no number of steps"
    return inert


def _remove(content: dict[str, Any], dotted: str) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        content = content.get(section, {})
    content.pop(last, None)


def reference_settings(name: str, *beside: config.Settings) -> config.Settings:
    """Return the configuration of a reference, for the images of the study's own default configurations."""
    kind = DETECTORS[name].Settings
    data, evaluate = beside[0].data, beside[0].evaluate
    own = kind.model_validate(forms.own_part(kind, layers.resolved(kind, {}, data.name)))
    for other in beside:
        own = kind.beside(other.own, own)
    return config.Settings(detector=name, data=data, evaluate=evaluate, own=own)
