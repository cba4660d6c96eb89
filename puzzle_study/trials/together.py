"""Several trials in one process: their detectors are fitted together, all else is each trial's own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence
from functools import partial

from puzzle_study.detectors.memory import is_out_of_memory
from puzzle_study.trials.log import trial_log
from puzzle_study.trials.run import Trial

log = logging.getLogger(__name__)


def run_together(trials: Sequence[Trial]) -> Iterator[Trial]:
    """Run trials whose settings are alike (``DetectorSettings.alike``); yield each when it has its record.

    A trial that fails harms no other. If memory does not suffice for all at once, they run one after the other. Each is
    resumed from its own checkpoint, and counts its share of the common time.
    """
    group = _Group(trials)
    with contextlib.ExitStack() as saving:
        for trial in trials:
            saving.enter_context(trial.saving())
        begun = []
        for trial in trials:
            with group.turn([trial]), trial.working():
                trial.begin(beside=len(trials) - 1)
            if trial.record is None:
                begun.append(trial)
            else:
                yield trial
        failures = group.fit(begun) if len(begun) > 1 else None
        for number, trial in enumerate(begun):
            with group.turn([trial]), trial.working():
                if failures is None:
                    if len(begun) > 1:  # what was built is used up
                        trial.begin()
                    trial.fit()
                elif (failure := failures[number]) is not None:
                    raise failure
                trial.finish()
            yield trial


class _Group:
    """Whose turn it is, for clocks and logs."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = trials
        self._working: Collection[Trial] = ()
        self.take([])

    def take(self, trials: Collection[Trial]) -> None:
        """Let these trials share the time from now on."""
        self._working = trials
        for trial in self._trials:
            trial.clock.take(1 / len(trials) if trial in trials else 0.0)

    def _is_turn_of(self, trial: Trial) -> bool:
        return trial in self._working

    @contextlib.contextmanager
    def turn(self, trials: Collection[Trial]) -> Iterator[None]:
        self.take(trials)
        try:
            yield
        finally:
            self.take([])

    def fit(self, trials: Sequence[Trial]) -> list[Exception | None] | None:
        """Fit together; returns each trial's own exception, or None if memory does not suffice for all at once."""

        def take(numbers: Sequence[int]) -> None:
            self.take([trials[number] for number in numbers])

        kind = type(trials[0].detector)
        detectors, images = [trial.detector for trial in trials], [trial.train for trial in trials]
        with contextlib.ExitStack() as logs, self.turn(trials):
            for trial in trials:
                logs.enter_context(trial_log(trial.results.log_file(trial.spec.key), partial(self._is_turn_of, trial)))
            log.info("fitted together with %d others", len(trials) - 1)
            try:
                return kind.fit_together(detectors, images, [trial.following for trial in trials], take)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("memory does not suffice for all at once; they are fitted one after the other")
        return None
