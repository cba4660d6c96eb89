"""A study file, or images, that are not those of the results: what changed, and what of the results is still of use.

Only the study files and the records are compared: no trial is run and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from puzzle_study import config
from puzzle_study.config import layers, read
from puzzle_study.config.axes import applies, ordered_axes, setting_of
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors.devices import threads
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study import space
from puzzle_study.trials.record import records
from puzzle_study.trials.spec import TrialSpec

SHOWN = 3


@dataclass(frozen=True)
class Changes:
    """How a study file and its images differ from those that made the results.

    Attributes:
        settings: what changed, a phrase for each setting.
        images: whether all trained detectors are of other images, though the data section is the same.
        finished: how many detectors the earlier study has trained; references, which cost nothing, do not count.
        usable: how many of them the study file can ask for too.
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
        """Return why the study cannot go on here, as one sentence, or None if it can."""
        if self.images and self.lose_everything:
            return (
                f"the images in data.root have changed since {where} was made, so none of its {self.finished} trained "
                f"detectors can be kept; put the old images back, or choose another place with --results or another "
                f"`name`"
            )
        if not self.settings:
            if resume:
                return None
            return f"{where} holds an unfinished study; go on with --resume, or choose another place with --results"
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
            f"{where} was made from another study file ({shown}); choose another place with --results, or keep what "
            f"is equal ({self.usable} of {self.finished} trained detectors) and train the rest with --resume"
        )


def compare(results: Results, file: read.StudyFile, tasks: Sequence[TaskSpec], fingerprint: str) -> Changes | None:
    """Compare a study file with what is in its results folder; None if there is nothing, or nothing but failures."""
    found = records(results)
    begun = any(record.worked for record in found) or any(results.root.glob("checkpoints/*/*"))
    if not (results.study_file.exists() and begun):
        return None
    before = read.load_dumped(results.study_file)
    # The place of the images does not count: their fingerprint says whether they are the same.
    data = before.data.model_copy(update={"root": file.study.data.root})
    before = before.model_copy(update={"data": data})
    trained = [record for record in found if record.finished and record.spec.detector in before.detectors]
    usable = sum(can_use(record.spec, file, tasks, fingerprint) for record in trained)
    # A data section that changed means other images, and is a reason of its own.
    images = before.data == file.study.data and all(record.spec.fingerprint != fingerprint for record in trained)
    return Changes(tuple(changed_settings(before, file.study)), images, len(trained), usable)


def changed_settings(before: config.Study, now: config.Study) -> list[str]:
    """Return a phrase for every setting that has changed, and one for another number of threads."""
    old, new = _named(before), _named(now)
    then, here = threads(before.resources.cpu), threads(now.resources.cpu)
    other = [f"a trial had {then} threads, has {here}: on a CPU the last bits of new trainings differ"]
    return (other if then != here else []) + [
        f"{name} was {_shown(old, name)}, is {_shown(new, name)}"
        for name in dict.fromkeys([*old, *new])
        if (name in old, old.get(name)) != (name in new, new.get(name))
    ]


def _named(study: config.Study) -> dict[str, Any]:
    """Return the settings of a study by their names in its file."""
    content: dict[str, Any] = yaml.safe_load(read.dump(study))
    return layers.leaves(content)


def can_use(spec: TrialSpec, file: read.StudyFile, tasks: Iterable[TaskSpec], fingerprint: str) -> bool:
    """Whether a study may ask for this very trial: one of its defaults, or a point of its search space."""
    if spec.task not in set(tasks) or spec.seed not in file.study.seeds or spec.detector not in file.form.names:
        return False
    return any(
        TrialSpec(settings, spec.task, spec.seed, fingerprint).key == spec.key
        for settings in _reachable(spec.settings, file)
    )


def _reachable(settings: config.Settings, file: read.StudyFile) -> Iterable[config.Settings]:
    """Yield the detector's default, and the point of the search space that has the values of these settings."""
    yield file.study.settings(settings.detector)
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
