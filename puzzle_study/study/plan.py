"""The plan of a study: which trial comes next, as a pure function of what is finished.

Nothing here knows Ray. Configurations are asked for in a fixed order: number i is asked for once number
i - lookahead has been told, and worth is told in the order of asking. So the plan does not depend on which
trial happens to finish first, and a study that is run again from its records asks for the same configurations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puzzle_study import config
from puzzle_study.datasets import TaskSpec
from puzzle_study.results import Results
from puzzle_study.study import space
from puzzle_study.study.selection import Reading, configuration_value, readings
from puzzle_study.studyfile import StudyFile
from puzzle_study.trial_spec import PUZZLE_AE, TrialSpec, resolve_reference

REPEATED_SUGGESTIONS = 50
DEFAULT_CONFIGURATIONS = 20


@dataclass
class Planned:
    """A configuration with its trials; ``number`` 0 is the study's own, untouched default."""

    number: int
    values: space.Values
    settings: config.Settings
    trials: tuple[TrialSpec, ...]
    suggestions: list[space.Suggestion] = field(default_factory=list)
    told: bool = False

    @property
    def configuration(self) -> str:
        """Name of the configuration."""
        return self.trials[0].configuration


class Plan:
    """What a study trains.

    Args:
        file: the study file.
        tasks: its one-class problems.
        fingerprint: content of its data set.
        results: where records are; finished trials are taken from there.
        journal: file in which Optuna's study is kept for `optuna-dashboard`.
    """

    def __init__(
        self,
        file: StudyFile,
        tasks: Sequence[TaskSpec],
        fingerprint: str,
        results: Results,
        *,
        journal: Path | None = None,
    ) -> None:
        self.file, self.study, self.tasks = file, file.study, tuple(tasks)
        self.fingerprint, self.results = fingerprint, results
        self.readings = readings(file.study)
        self.records: dict[str, Mapping[str, Any]] = {}
        self.references = tuple(
            TrialSpec(name, resolve_reference(name, self._settings({})), task, 0, fingerprint)
            for name in self.study.references
            for task in self.tasks
        )
        self.configurations: list[Planned] = []
        self.exhausted = self.study.search is None
        self._asker = space.make_asker(file, self.study.search, journal) if self.study.search else None
        self._queue: list[TrialSpec] = list(self.references)
        self._running: dict[str, TrialSpec] = {}
        self._append({}, None)

    @property
    def wanted(self) -> int:
        """How many configurations are trained, the default included."""
        if self.study.search is None:
            return 1
        if self.study.search.configurations is not None:
            return 1 + self.study.search.configurations
        if self.study.search.algorithm == "grid":
            return 1 + grid_size(self.file, self.study.search)
        return 1 + DEFAULT_CONFIGURATIONS

    @property
    def total(self) -> int:
        """How many trials the study has; a space that is exhausted early has fewer."""
        configurations = len(self.configurations) if self.exhausted else self.wanted
        return len(self.references) + configurations * len(self.tasks) * len(self.study.seeds)

    @property
    def complete(self) -> bool:
        """Whether every trial has a record."""
        return self.next() is None and not self._running

    def next(self) -> TrialSpec | None:
        """Return the next trial to run without taking it, or None where there is none now."""
        while True:
            while self._queue:
                spec = self._queue[0]
                record = self.results.record(spec.key)
                if record is None or record["status"] != "finished":
                    if spec.key not in self.records:
                        return spec
                else:
                    self.records[spec.key] = record
                self._queue.pop(0)
            if not self._ask():
                return None

    def take(self) -> TrialSpec | None:
        """Return the next trial and count it as running, or None where there is none now."""
        spec = self.next()
        if spec is not None:
            self._queue.pop(0)
            self._running[spec.key] = spec
        return spec

    def done(self, key: str, record: Mapping[str, Any]) -> None:
        """Take in the record of a trial that was running, finished or failed."""
        self._running.pop(key, None)
        self.records[key] = record

    def abandon(self, key: str) -> None:
        """Take back a trial that was stopped before it wrote a record."""
        spec = self._running.pop(key, None)
        if spec is not None:
            self._queue.insert(0, spec)

    def finished(self) -> int:
        """Return how many trials have a record, finished or failed."""
        return len(self.records)

    def worth(self, planned: Planned) -> dict[Reading, float] | None:
        """Return the worth of a configuration under every reading, or None where it is incomplete."""
        records = [self.records.get(spec.key) for spec in planned.trials]
        finished = [record for record in records if record is not None and record["status"] == "finished"]
        if len(finished) < len(records):
            return None
        return {reading: configuration_value(finished, reading, self.study.selection) for reading in self.readings}

    def winner(self) -> tuple[Planned, Reading, float] | None:
        """Return the best configuration with its reading and worth; earlier ones win ties."""
        ranked = [
            (value, planned, reading)
            for planned in self.configurations
            for reading, value in (self.worth(planned) or {}).items()
        ]
        if not ranked:
            return None
        value, planned, reading = max(ranked, key=lambda entry: entry[0])
        return planned, reading, value

    def _settings(self, values: space.Values) -> config.Settings:
        return self.file.configuration(values)

    def _ask(self) -> bool:
        """Ask for the next configuration where its turn has come; returns whether the queue may have grown."""
        if self._asker is None or self.exhausted or len(self.configurations) >= self.wanted:
            self.exhausted = True
            return False
        assert self.study.search is not None
        turn = len(self.configurations) - self.study.search.lookahead
        for planned in self.configurations[: turn + 1]:
            if not self._tell(planned):
                return False
        for _ in range(REPEATED_SUGGESTIONS):
            suggestion = self._asker.ask()
            if suggestion is None:
                break
            if self._append(suggestion.values, suggestion):
                return True
        self.exhausted = True
        return False

    def _tell(self, planned: Planned) -> bool:
        """Tell a configuration's worth once all of its trials have ended; returns whether it has been told."""
        if planned.told:
            return True
        if any(spec.key not in self.records for spec in planned.trials):
            return False
        worth = self.worth(planned)
        for suggestion in planned.suggestions:
            suggestion.tell(worth)
        if planned.number == 0 and worth is not None and self._asker is not None:
            self._asker.tell_default(worth)
        planned.told = True
        return True

    def _append(self, values: space.Values, suggestion: space.Suggestion | None) -> bool:
        """Queue a configuration; one that trains the same as an earlier one shares its trials and is not counted."""
        settings = self._settings(values)
        trials = tuple(
            TrialSpec(PUZZLE_AE, settings, task, seed, self.fingerprint)
            for task in self.tasks
            for seed in self.study.seeds
        )
        for earlier in self.configurations:
            if earlier.configuration == trials[0].configuration:
                if suggestion is not None:
                    if earlier.told:
                        suggestion.tell(self.worth(earlier))
                    else:
                        earlier.suggestions.append(suggestion)
                return False
        planned = Planned(len(self.configurations), values, settings, trials, [suggestion] if suggestion else [])
        self.configurations.append(planned)
        self._queue.extend(trials)
        return True


def grid_size(file: StudyFile, search: config.Search) -> int:
    """Return how many configurations a grid has that do not train the same as the default or one another."""
    asker = space.GridAsker(file, search)
    names = {TrialSpec(PUZZLE_AE, file.configuration({}), TaskSpec("", ""), 0, "").configuration}
    while (suggestion := asker.ask()) is not None:
        names.add(TrialSpec(PUZZLE_AE, file.configuration(suggestion.values), TaskSpec("", ""), 0, "").configuration)
    return len(names) - 1
