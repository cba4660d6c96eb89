"""The search space: Optuna or an enumeration chooses the next configuration.

Optuna receives one value for a configuration, once all of its trials are done. Axes that need no training
(error norm, aggregation, number of permutations) add no trials: a trained detector gives a value for each of them.
"""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from puzzle_study import config
from puzzle_study.config import Reading
from puzzle_study.config.axes import Values as Values
from puzzle_study.config.axes import chosen_values, combinations, ordered_axes, setting_of
from puzzle_study.config.read import StudyFile
from puzzle_study.datasets import TaskSpec
from puzzle_study.study.along import Along
from puzzle_study.trials.spec import TrialSpec, inert_settings
from puzzle_study.trials.worth import LOWER_IS_BETTER, Worth, objectives, readings

NAME = "configuration"
"""Attribute of Optuna's trials that optuna-dashboard shows: what the configuration is called."""
Told = Mapping[Reading, Worth] | None
"""Worth of a configuration under every reading, or None if it failed."""


@dataclass(frozen=True)
class Suggestion:
    """Values of the axes, and the Optuna trial that receives the configuration's name and worth."""

    values: Values
    tell: Callable[[Told], None] = lambda worth: None
    call: Callable[[str], None] = lambda name: None


class Asker(ABC):
    """Source of configurations; only one that learns needs the results and a journal."""

    @abstractmethod
    def ask(self, *, at_random: bool = False) -> Suggestion | None:
        """Return the next suggestion, drawn at random on request, or None if the space is exhausted."""

    def tell_unasked(self, settings: config.Settings, worth: Mapping[Reading, Worth], name: str) -> None:  # noqa: B027
        """Pass on the worth of settings that were not asked for, and what the configuration is called."""

    def keep(self, journal: Path) -> None:  # noqa: B027
        """Record the search for `optuna-dashboard`, in a new file that is never read."""


def make_asker(file: StudyFile, search: config.Search) -> Asker:
    """Return the source of configurations for a study's algorithm."""
    return (GridAsker if search.algorithm == "grid" else OptunaAsker)(file, search)


def inert_axes(file: StudyFile) -> dict[str, str]:
    """Return the axes that have no effect whenever they are searched, each with the reason."""
    inert: dict[str, str] = {}
    for name in file.study.search.space if file.study.search else {}:
        detector = file.form.detector_of(name)
        if detector is None:
            continue
        prefix = file.form.prefix(detector)
        section = name.removeprefix(prefix).rpartition(".")[0]
        deciding = [f"{prefix}{other}" for other in file.form.settings_class(detector).INERT_BY.get(section, ())]
        reasons = [
            inert_settings(file.configuration(values)).get(name.removeprefix(prefix))
            for values in combinations(file, [name, *deciding]) or ()
            if name in values
        ]
        if reasons and (reason := reasons[0]) is not None and None not in reasons:
            inert[name] = reason
    return inert


def validation_note(study: config.Study) -> str | None:
    """Return a note if a fixed number of validation images does not fit and a share is used; otherwise None."""
    count, data = study.data.validation_count, study.data
    if count is None:
        return None
    axis = study.search.space.get("data.train_fraction") if study.search else None
    small = min(axis.values if axis else [data.train_fraction]) < 1
    if not small and (data.max_train_images or count + 1) > count:
        return None
    return (
        f"data.validation_count {count} is too many for the smaller training sets: for these, "
        f"{100 * data.validation_fraction:g} % are validation images (data.validation_fraction)"
    )


class OptunaAsker(Asker):
    """Asks one of Optuna's samplers; the same results in the same order give the same suggestions."""

    def __init__(self, file: StudyFile, search: config.Search) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.file, self.axes, self.free = file, ordered_axes(search), file.form.free()
        most = max(len(readings(file.study, detector)) for detector in file.form.names)
        self.sampler = make_sampler(search, startup=search.startup * most * Along(file).usual())
        self.random = optuna.samplers.RandomSampler(seed=search.seed)
        self.distributions = {name: distribution(axis) for name, axis in search.space.items()}
        self.names: dict[int, str] = {}
        self.storage = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(
            study_name=file.study.name,
            storage=self.storage,
            directions=["minimize" if name in LOWER_IS_BETTER else "maximize" for name in objectives(file.study)],
            sampler=self.sampler,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(objectives(file.study)))

    def ask(self, *, at_random: bool = False) -> Suggestion:
        """Return Optuna's next suggestion; conditional axes are asked only if their condition holds."""
        self.study.sampler = self.random if at_random else self.sampler
        trial = self.study.ask()
        values = chosen_values(self.axes, self.file, lambda name, axis: suggest(trial, name, axis))
        return Suggestion(
            values,
            lambda worth: self.tell(trial.number, values, worth),
            lambda name: self.call(trial, name),
        )

    def call(self, trial: optuna.trial.Trial, name: str) -> None:
        """Show what the configuration of a trial is called."""
        self.names[trial.number] = name
        trial.set_user_attr(NAME, name)

    def tell(self, number: int, values: Values, worth: Told) -> None:
        """Give Optuna the value under the suggested reading, and add the other readings as separate trials."""
        if worth is None:
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)
            return
        asked = next(
            reading
            for reading in worth
            if all(values.get(name, read) == read for name, read in self.read_as(reading).items())
        )
        self.study.tell(number, worth[asked])
        others = {reading: value for reading, value in worth.items() if reading != asked}
        self.add(values, others, self.names[number])

    def tell_unasked(self, settings: config.Settings, worth: Mapping[Reading, Worth], name: str) -> None:
        """Give Optuna a configuration that it did not suggest, if it is in the space."""
        self.add(chosen_values(self.axes, self.file, lambda axis, _: setting_of(settings, axis)), worth, name)

    def keep(self, journal: Path) -> None:
        """Copy the search so far into the journal, and continue there."""
        kept: Any = JournalStorage(JournalFileBackend(str(journal)))
        name = self.study.study_name
        optuna.copy_study(from_study_name=name, from_storage=self.storage, to_storage=kept)
        self.study = optuna.load_study(study_name=name, storage=kept, sampler=self.sampler)

    def read_as(self, reading: Reading) -> Values:
        """Return the settings that need no training, with a reading's values."""
        return {name: reading.settings[own.rpartition(".")[2]] for name, own in self.free.items()}

    def add(self, values: Values, worth: Mapping[Reading, Worth], called: str) -> None:
        """Add finished trials that Optuna did not suggest, if their values are in the space."""
        for reading, value in worth.items():
            params = values | {name: read for name, read in self.read_as(reading).items() if name in values}
            if all(contains(self.distributions[name], params[name]) for name in params):
                distributions = {name: self.distributions[name] for name in params}
                self.study.add_trial(
                    optuna.trial.create_trial(
                        params=params, distributions=distributions, values=value, user_attrs={NAME: called}
                    )
                )


def make_sampler(search: config.Search, *, startup: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of an algorithm, with the number of trials drawn at random before TPE models."""
    if search.algorithm == "random":
        return optuna.samplers.RandomSampler(seed=search.seed)
    if search.algorithm == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=search.seed, population_size=max(2, search.startup))
    if search.algorithm == "cmaes":
        return optuna.samplers.CmaEsSampler(
            seed=search.seed, n_startup_trials=search.startup, warn_independent_sampling=False
        )
    return optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=startup, constant_liar=True)


class GridAsker(Asker):
    """Every combination of a grid, in the order of the study file."""

    def __init__(self, file: StudyFile, search: config.Search) -> None:
        self._left = grid(file, search)

    def ask(self, *, at_random: bool = False) -> Suggestion | None:
        values = next(self._left, None)
        return None if values is None else Suggestion(values)


def grid(file: StudyFile, search: config.Search) -> Iterator[Values]:
    """Yield every combination of the values of the axes that need a training of their own, each once.

    Of those that one training answers, the first is yielded.
    """
    free, along = file.form.free(), Along(file)
    axes = [(name, axis) for name, axis in ordered_axes(search) if name not in free]
    seen: set[tuple[tuple[str, Any], ...]] = set()
    for combination in itertools.product(*(axis.values for _, axis in axes)):
        whole = dict(zip((name for name, _ in axes), combination, strict=True))
        values = chosen_values(axes, file, lambda name, _, whole=whole: whole[name])  # type: ignore[misc]
        if (unique := tuple(along.trained(values).items())) not in seen:
            seen.add(unique)
            yield values


def grid_size(file: StudyFile, search: config.Search) -> int:
    """Return how many configurations of a grid are trained besides the default."""
    along = Along(file)

    def name(settings: config.Settings) -> str:
        met = tuple(sorted(along.of(settings).values()))
        return TrialSpec(settings, TaskSpec("", ""), 0, "", along=met).stem

    defaults = {name(file.study.settings(detector)) for detector in file.form.names}
    return len({name(file.configuration(values)) for values in grid(file, search)} - defaults)


def suggest(trial: optuna.trial.Trial, name: str, axis: config.Axis) -> config.Scalar:
    if axis.kind in ("choice", "grid"):
        value: config.Scalar = trial.suggest_categorical(name, axis.values)
        return value
    low, high = axis.values
    if axis.kind == "int_uniform":
        return trial.suggest_int(name, low, high)
    return trial.suggest_float(name, low, high, log=axis.kind == "log_uniform")


def distribution(axis: config.Axis) -> BaseDistribution:
    if axis.kind in ("choice", "grid"):
        return CategoricalDistribution(axis.values)
    low, high = axis.values
    if axis.kind == "int_uniform":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=axis.kind == "log_uniform")


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution contains a value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return isinstance(value, (int, float)) and distribution.low <= value <= distribution.high
