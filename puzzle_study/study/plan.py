"""The plan of a study: which trial comes next, as a pure function of what is finished.

This module does not know Ray. Configurations are chosen in a fixed order: number i once the result of number
i - lookahead is known, and the search receives results in the order of choosing. In a race a configuration is compared
with the best result known when it was chosen. So the plan does not depend on which trial finishes first, and a study
that is run again from its records chooses the same configurations.

Which trial a stopping rule stops does depend on that, and is kept in its record. The search then receives the value of
the configuration's first stopped trial, in the plan's order, and those before it, which run to their end in any case.
Later ones may have started or not: their records are read, but do not change the value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import fmean

from puzzle_study import config
from puzzle_study.config import Reading, forms
from puzzle_study.config.read import StudyFile
from puzzle_study.criteria.expecting import kind_weights
from puzzle_study.criteria.registry import CRITERIA
from puzzle_study.datasets import TaskSpec
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study import choosing, fusing, racing, space
from puzzle_study.study.along import Along
from puzzle_study.study.planned import Best, Planned
from puzzle_study.trials.along import in_order
from puzzle_study.trials.reading import completed
from puzzle_study.trials.record import Record, read_record
from puzzle_study.trials.spec import TrialSpec, reference_settings
from puzzle_study.trials.worth import Worth, configuration_worth, gain, judged, objectives, readings, trial_value

REPEATED_SUGGESTIONS = 50
DEFAULT_CONFIGURATIONS = 20


class Plan:
    """What a study trains on its tasks; records in ``results`` count as finished trials.

    ``records`` has what is known of each trial that has ended, without the history along its training: those of many
    trials take gigabytes, and only the tables need them.
    """

    def __init__(self, file: StudyFile, tasks: Sequence[TaskSpec], fingerprint: str, results: Results) -> None:
        self.file, self.study, self.tasks = file, file.study, tuple(tasks)
        self.fingerprint, self.results = fingerprint, results
        self.objectives, self.weights = objectives(file.study), kind_weights(file.study.expect, file.study.kinds)
        self._readings = {detector: readings(file.study, detector) for detector in file.form.names}
        self._views = {
            name: tuple(dict.fromkeys(reading.views for reading in found if reading.views is not None))
            for name, found in self._readings.items()
        }
        self.racing = file.study.search.racing if file.study.search else None
        self.stopping = file.study.search.stopping if file.study.search else None
        self.records: dict[str, Record] = {}
        self.references = tuple(
            TrialSpec(reference_settings(name, *map(self.study.settings, self.study.detectors)), task, 0, fingerprint)
            for name in self.study.references
            if name not in self.study.detectors
            for task in self.tasks
        )
        self.configurations: list[Planned] = []
        self._ends: list[int] = []
        self._by_name: dict[str, Planned] = {}
        self._of_trial: dict[str, Planned] = {}
        self._leader: Best | None = None
        self._ranking: tuple[int, choosing.Ranking | None] = 0, None
        self._best_told: Best | None = None
        self._known, self._never, self._told = len(self.references), set[str](), 0
        self._unreleased: list[Planned] = []
        self.exhausted = self.study.search is None
        self._asker = space.make_asker(file, self.study.search) if self.study.search else None
        self._queue: deque[TrialSpec] = deque(self.references)
        self.along = Along(file)
        self.fusing = fusing.Fusing(self.study, len(self.tasks) * len(self.study.seeds), self.along.axes)
        self._running: dict[str, TrialSpec] = {}
        if self.racing is not None and len(self.tasks) * len(self.study.seeds) <= self.racing.start:
            raise UserError(
                f"search.racing tests a configuration after {self.racing.start} trials, but this study gives it "
                f"{len(self.tasks) * len(self.study.seeds)} (classes × seeds); lower racing.start, add seeds, or "
                f"remove racing"
            )
        for detector in file.form.names:
            self._append({forms.ONE: detector} if file.form.several else {}, None, default=True)

    def keep_search(self, journal: Path) -> None:
        """Record the search for `optuna-dashboard`, replacing an older journal."""
        journal.unlink(missing_ok=True)
        if self._asker is not None:
            self._asker.keep(journal)

    @cached_property
    def wanted(self) -> int:
        """Number of trained configurations, including each detector's default, without those read along them."""
        defaults = len(self.file.form.names)
        if self.study.search is None:
            return defaults
        if self.study.search.configurations is not None:
            return defaults + self.study.search.configurations
        if self.study.search.algorithm == "grid":
            return defaults + space.grid_size(self.file, self.study.search)
        return defaults + DEFAULT_CONFIGURATIONS

    @property
    def total(self) -> int:
        """Number of trials; an exhausted space or a lost race makes it smaller."""
        never = len(self._never) - sum(key in self._never for key in self._running)
        return self._known - never + self._unknown() * self.along.usual()

    def left(self) -> tuple[list[TrialSpec], int]:
        """Return the trials without a record, including running ones, and how many more trainings will be chosen."""
        never = self._never.difference(self._running)
        known = chain(self.references, *(planned.trials for planned in self.configurations))
        return [spec for spec in known if spec.key not in self.records and spec.key not in never], self._unknown()

    def _unknown(self) -> int:
        return (self.trainings - len(self._ends)) * len(self.tasks) * len(self.study.seeds)

    @property
    def trainings(self) -> int:
        """Number of trained configurations, as far as it is known: ``wanted``, unless the space is exhausted."""
        return len(self._ends) if self.exhausted else self.wanted

    def training_of(self, spec: TrialSpec) -> int | str:
        """Return which configuration's training a trial's own has: equal for those that are read along one."""
        planned = self._of_trial.get(spec.key)
        return spec.configuration if planned is None else planned.training

    def ended(self) -> bool:
        """Return whether every trial has a record or needs none; chooses what comes next and reads existing records."""
        return self.next() is None and not self._running

    def next(self) -> TrialSpec | None:
        """Return the next trial to run without taking it, or None if there is none now."""
        while True:
            while self._queue:
                spec = self._queue[0]
                if (record := self._kept(spec)) is not None:
                    self._take_in(spec, record)
                elif self._is_to_run(spec):
                    return spec
                self._queue.popleft()
            if not self._race() and not self._ask():
                self._queue += self.fusing.release() if self.exhausted else []
                if not self._queue:
                    return None

    def take(self) -> TrialSpec | None:
        """Return the next trial and count it as running, or None if there is none now."""
        spec = self.next()
        if spec is not None:
            self._queue.popleft()
            self._running[spec.key] = spec
        return spec

    def take_together(self) -> list[TrialSpec]:
        """Return the next trial with those of its group, and count them as running."""
        first = self.take()
        taken = [] if first is None else [first]
        for spec in self.fusing.beside(first) if first is not None else ():
            if self._kept(spec) is None and self._is_to_run(spec):  # :meth:`next` reads a kept one
                self._running[spec.key] = spec
                taken.append(spec)
        return in_order(taken) if first is not None and first.along else taken

    def done(self, key: str, record: Record) -> None:
        """Read the record of a trial that was running: finished, failed or stopped."""
        self._take_in(self._running.pop(key, record.spec), record)

    def abandon(self, key: str) -> None:
        """Take back a trial that ended before it wrote a record."""
        spec = self._running.pop(key, None)
        if spec is not None:
            self._queue.appendleft(spec)

    def called(self, spec: TrialSpec) -> str:
        """Return what people call a trial: its configuration, or the reference's detector, its class and its seed."""
        planned = self._of_trial.get(spec.key)
        repeat = f" repeat {spec.task.repeat}" if spec.task.repeat else ""
        return f"{planned.name if planned else spec.detector}, {spec.task.normal_class}{repeat}, seed {spec.seed}"

    def stoppable(self, key: str) -> bool:
        """Return whether a trial may be stopped during training: never the default's."""
        planned = self._of_trial.get(key)
        return planned is not None and not planned.default

    def given_up(self, key: str) -> str:
        """Return why a trial was given up before it ran, or nothing."""
        planned = self._of_trial.get(key)
        return planned.given_up if planned is not None else ""

    def finished(self) -> int:
        """Return how many trials have a record: finished, failed or stopped."""
        return len(self.records)

    def readings(self, planned: Planned) -> list[Reading]:
        """Return the readings under which a configuration may win."""
        return self._readings[planned.settings.detector]

    def leader(self) -> Best | None:
        """Return what is best so far in the first objective, with its reading and worth; earlier ones win ties."""
        return self._leader

    def ranking(self) -> choosing.Ranking | None:
        """Return how good what is complete is by the study's selection, or None if nothing is."""
        complete = sum(planned.worth is not None for planned in self.configurations)
        if self._ranking[0] != complete:
            self._ranking = complete, choosing.ranking(self)
        return self._ranking[1]

    def ranked(self) -> list[Best]:
        """Return complete configurations with their best readings, best first; earlier ones win ties."""
        if CRITERIA[self.study.selection].compares:
            return ranking.best_first() if (ranking := self.ranking()) is not None else []
        found = [self._best(planned) for planned in self.configurations if planned.worth is not None]
        return sorted(found, key=self._order)

    def winner(self) -> Best | None:
        """Return the best configuration over all tasks with its reading and worth; earlier ones win ties."""
        return next(iter(self.ranked()), None)

    def winners(self) -> list[Best]:
        """Return the winner of each task: the same for all, unless the study chooses one for each."""
        winner = self.winner()
        if winner is None:
            return []
        ranking = self.ranking() if self.study.choose == "per_task" else None
        return [winner if ranking is None else ranking.of_task(number) for number in range(len(self.tasks))]

    def _order(self, best: Best) -> tuple[float, int]:
        return -gain(self.objectives[0], best[2][0]), best[0].number

    def _best(self, planned: Planned) -> Best:
        assert planned.worth is not None
        return min(((planned, reading, worth) for reading, worth in planned.worth.items()), key=self._order)

    def _better(self, planned: Planned, best: Best | None) -> Best:
        """Return the better of a complete configuration and the best so far; the earlier one if they are equal."""
        found = self._best(planned)
        return found if best is None else min(best, found, key=self._order)

    def _finished(self, trials: Sequence[TrialSpec]) -> list[Record]:
        records = [self.records.get(spec.key) for spec in trials]
        return [record for record in records if record is not None and record.finished]

    def _kept(self, spec: TrialSpec) -> Record | None:
        """Return the record of an earlier run that counts, with all readings, or None."""
        record = read_record(self.results, spec.key)
        return completed(record, spec, self.results) if record is not None and self._is_kept(spec, record) else None

    def _is_kept(self, spec: TrialSpec, record: Record) -> bool:
        """Whether a record counts; a stopped trial counts if this study might have stopped it too."""
        if record.status == "stopped" and self.stopping is not None and self.stoppable(spec.key):
            return record.stopping.get("rule") == self.stopping.model_dump(mode="json")
        return record.finished

    def _is_to_run(self, spec: TrialSpec) -> bool:
        return not any(spec.key in keys for keys in (self.records, self._running, self._never))

    def _take_in(self, spec: TrialSpec, record: Record) -> None:
        # With the plan's own specification, which shares its settings with the configuration's other trials.
        key, record = spec.key, replace(judged(record, self.weights), spec=spec, history={})
        self.records[key] = record
        self._never.discard(key)
        planned = self._of_trial.get(key)
        if planned is None:
            return
        if record.status == "stopped":
            needed = 1 + next(number for number, spec in enumerate(planned.trials) if spec.key == key)
            if needed < planned.needed or not planned.given_up:
                self._give_up(planned, f"trial {key} was stopped: {record.error}", needed=needed)
        finished = self._finished(planned.trials) if record.finished else []
        if len(finished) == len(planned.trials):
            planned.worth = {
                reading: configuration_worth(finished, reading, self.objectives) for reading in self.readings(planned)
            }
            self._leader = self._better(planned, self._leader)

    def _give_up(self, planned: Planned, reason: str, *, needed: int) -> None:
        planned.given_up, planned.needed = reason, needed
        self._never.update(spec.key for spec in planned.never if spec.key not in self.records)

    def _ask(self) -> bool:
        """Choose the next configuration if it is due; returns whether the queue may have grown."""
        if self._asker is None:
            return False
        assert self.study.search is not None
        self.exhausted |= len(self._ends) >= self.wanted
        turn = len(self._ends) - (1 if self.exhausted else self.study.search.lookahead)
        while turn >= 0 and self._told < self._ends[turn]:
            if not self._tell(self.configurations[self._told]):
                return False
        if self.exhausted:
            return False
        for repeated in range(REPEATED_SUGGESTIONS):
            # Otherwise the best detector, if it has few configurations, would be suggested again and again.
            suggestion = self._asker.ask(at_random=repeated >= REPEATED_SUGGESTIONS // 2)
            if suggestion is None:
                break
            if self._append(suggestion.values, suggestion):
                return True
        self.exhausted = True
        return False

    def _race(self) -> bool:
        """Test the configurations whose queued trials have ended; returns whether the queue has grown."""
        grown, waiting = False, []
        for planned in self._unreleased:
            if planned.given_up:
                continue
            released = planned.trials[: planned.released]
            if any(spec.key not in self.records for spec in released):
                waiting.append(planned)
                continue
            if self._has_lost(planned):
                continue
            self._queue.append(planned.trials[planned.released])
            planned.released += 1
            grown = True
            if planned.released < len(planned.trials):
                waiting.append(planned)
        self._unreleased = waiting
        return grown

    def _has_lost(self, planned: Planned) -> bool:
        """Compare a configuration with its rival on the trials that both have; give it up if it is worse."""
        finished = self._finished(planned.trials[: planned.released])
        if planned.rival is None or self.racing is None or len(finished) < planned.released:
            return False
        rival, reading = planned.rival
        verdict = racing.compare(
            finished,
            self._finished(rival.trials[: planned.released]),
            self.readings(planned),
            rival_reading=reading,
            objective=self.objectives[0],
            p=self.racing.p,
        )
        if verdict.lost:
            reason = f"after {len(finished)} trials worse than {rival.name}: {verdict}"
            self._give_up(planned, reason, needed=planned.released)
            assert rival.worth is not None
            planned.estimate = {name: (rival.worth[reading][0] + d,) for name, d in verdict.differences.items()}
        return verdict.lost

    def _tell(self, planned: Planned) -> bool:
        """Pass on a configuration's worth once all trials that it needs have ended; returns whether it did."""
        if any(spec.key not in self.records for spec in planned.trials[: planned.needed]):
            return False
        worth = self._told_worth(planned)
        for suggestion in planned.suggestions:
            suggestion.tell(worth)
        if (planned.default or not planned.suggestions) and worth is not None and self._asker is not None:
            self._asker.tell_unasked(planned.settings, worth, planned.name)
        if planned.worth is not None:
            self._best_told = self._better(planned, self._best_told)
        self._told += 1
        return True

    def _told_worth(self, planned: Planned) -> dict[Reading, Worth] | None:
        """Return the value for the search; a configuration with a stopped trial counts with what it had reached."""
        last = self.records[planned.trials[planned.needed - 1].key]
        whole = planned.estimate or planned.worth
        if whole is not None or self.objectives != ("selection",) or last.status != "stopped":
            return whole
        stopped, finished = float(last.stopping["selection"]), self._finished(planned.trials[: planned.needed])
        return {
            reading: (fmean([stopped, *(trial_value(record, reading, "selection") for record in finished)]),)
            for reading in self.readings(planned)
        }

    def _append(self, values: space.Values, suggestion: space.Suggestion | None, *, default: bool = False) -> bool:
        """Queue a configuration and those that are read along its training.

        One with the same training as an earlier one shares its trials and is not counted.
        """
        settings = self.file.configuration(values)
        trials = self._trials(settings)
        earlier = self._by_name.get(trials[0].configuration)
        if earlier is not None:
            if suggestion is not None:
                suggestion.call(earlier.name)
                if earlier.number < self._told:
                    suggestion.tell(self._told_worth(earlier))
                else:
                    earlier.suggestions.append(suggestion)
            return False
        planned = [self._planned(values, settings, trials, suggestion, default=default)]
        for other in self.along.others(values, settings):
            settings = self.file.configuration(other)
            read = self._trials(settings)
            if read[0].stem == trials[0].stem and read[0].configuration not in self._by_name:
                planned.append(self._planned(other, settings, read, None))
        self._ends.append(len(self.configurations))
        self._queue.extend(self.fusing.released(planned))
        return True

    def _trials(self, settings: config.Settings) -> tuple[TrialSpec, ...]:
        views, along = self._views[settings.detector], tuple(sorted(self.along.of(settings).values()))
        return tuple(
            TrialSpec(settings, task, seed, self.fingerprint, views, along)
            for task in self.tasks
            for seed in self.study.seeds
        )

    def _planned(
        self,
        values: space.Values,
        settings: config.Settings,
        trials: tuple[TrialSpec, ...],
        suggestion: space.Suggestion | None,
        *,
        default: bool = False,
    ) -> Planned:
        """Number a configuration, and let it race if there is a race."""
        asked = [suggestion] if suggestion else []
        place, training = len(self.configurations), len(self._ends)
        planned = Planned(place, training, default, values, settings, trials, asked)
        if suggestion is not None:
            suggestion.call(planned.name)
        if self.racing is not None and self._best_told is not None:
            planned.rival = self._best_told[:2]
            planned.released = self.racing.start
            self._unreleased.append(planned)
        else:
            planned.released = len(trials)
        self.configurations.append(planned)
        self._by_name[planned.configuration] = planned
        self._of_trial |= {spec.key: planned for spec in trials}
        self._known += len(trials)
        return planned
