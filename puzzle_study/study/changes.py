"""What changed between a study file, or its images, and existing results, and which results can be kept.

Compares only study files and records; runs no trial and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from puzzle_study import config
from puzzle_study.config import forms, layers, read
from puzzle_study.config.axes import applies, ordered_axes, setting_of
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors.devices import threads
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study import space
from puzzle_study.study.along import Along
from puzzle_study.trials.record import records
from puzzle_study.trials.spec import TrialSpec

SHOWN = 3


@dataclass(frozen=True)
class Changes:
    """How a study file and its images differ from those of the results.

    Attributes:
        settings: a phrase for each changed setting.
        images: whether all trained detectors used other images, although the data section is the same.
        finished: number of detectors trained by the earlier study, without references, which cost almost nothing.
        usable: how many of them the new study file can use.
    """

    settings: tuple[str, ...]
    images: bool
    finished: int
    usable: int

    @property
    def lose_everything(self) -> bool:
        """Whether something was trained and all of it would be lost."""
        return self.finished > 0 and self.usable == 0

    def __str__(self) -> str:
        kept = f"; {self.usable} of {self.finished} trained detectors can be kept" if self.finished else ""
        return "; ".join(self.settings) + kept

    def refusal(self, where: str, *, resume: bool) -> str | None:
        """Return in one sentence why the study cannot continue here, or None if it can."""
        if self.images and self.lose_everything:
            return (
                f"the images in data.root have changed since {where} was made, so none of its {self.finished} trained "
                f"detectors can be kept; restore the old images, or choose another place with --results or another "
                f"`name`"
            )
        if not self.settings:
            if resume:
                return None
            return f"{where} has an unfinished study; continue with --resume, or choose another place with --results"
        more = len(self.settings) - SHOWN
        shown = "; ".join(self.settings[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
        if self.lose_everything:
            return (
                f"{where} was made from another study file ({shown}), so none of its {self.finished} trained "
                f"detectors can be kept; choose another place with --results or another `name`"
            )
        if resume:
            return None
        return (
            f"{where} was made from another study file ({shown}); choose another place with --results, or keep "
            f"{self.usable} of {self.finished} trained detectors and train the rest with --resume"
        )


def compare(results: Results, file: read.StudyFile, tasks: Sequence[TaskSpec], fingerprint: str) -> Changes | None:
    """Compare a study file with its results folder; None if the folder is empty or has only failures."""
    found = records(results)
    begun = any(record.worked for record in found) or any(results.root.glob("checkpoints/*/*"))
    if not (results.study_file.exists() and begun):
        return None
    before = read.load_dumped(results.study_file)
    # The images' location does not count: their fingerprint says whether they are the same.
    data = before.data.model_copy(update={"root": file.study.data.root})
    before = before.model_copy(update={"data": data})
    trained = [record for record in found if record.finished and record.spec.detector in before.detectors]
    usable = sum(can_use(record.spec, file, tasks, fingerprint) for record in trained)
    # A changed data section means other images, and is its own reason.
    images = before.data == file.study.data and all(record.spec.fingerprint != fingerprint for record in trained)
    return Changes(tuple(changed_settings(before, file.study)), images, len(trained), usable)


def changed_settings(before: config.Study, now: config.Study) -> list[str]:
    """Return a phrase for every changed setting, and for a changed number of threads."""
    old, new = _named(before), _named(now)
    then, here = threads(before.resources.cpu), threads(now.resources.cpu)
    other = [f"a trial had {then} threads, has {here}: on a CPU the last bits of new trainings differ"]
    return (other if then != here else []) + [
        f"{name} was {_shown(old, name)}, is {_shown(new, name)}"
        for name in dict.fromkeys([*old, *new])
        if (name in old, old.get(name)) != (name in new, new.get(name))
    ]


def _named(study: config.Study) -> dict[str, Any]:
    """Return a study's settings by their names in its file."""
    content: dict[str, Any] = yaml.safe_load(read.dump(study))
    return layers.leaves(content)


def can_use(spec: TrialSpec, file: read.StudyFile, tasks: Iterable[TaskSpec], fingerprint: str) -> bool:
    """Whether a study may use this trial: of one of its defaults, or of a point of its search space."""
    if spec.task not in set(tasks) or spec.seed not in file.study.seeds or spec.detector not in file.form.names:
        return False
    return any(
        TrialSpec(settings, spec.task, spec.seed, fingerprint).key == spec.key
        for settings in _reachable(spec.settings, file)
    )


def _reachable(settings: config.Settings, file: read.StudyFile) -> Iterable[config.Settings]:
    """Yield the detector's default, what its training answers, and the point of the search space with these values."""
    own = file.study.settings(settings.detector)
    yield own
    yield from map(file.configuration, Along(file).others({forms.ONE: settings.detector}, own))
    search = file.study.search
    if search is None:
        return
    values: space.Values = {}
    free = file.form.free()
    for name, axis in ordered_axes(search):
        if not applies(axis, values, file.study):
            continue
        value = setting_of(settings, name)
        if name not in free and not space.contains(space.distribution(axis), value):
            return
        values[name] = value
    try:
        yield file.configuration(values)
    except UserError:
        return


def _shown(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return "not there"
    value = settings[name]
    return "null" if value is None else str(value)
