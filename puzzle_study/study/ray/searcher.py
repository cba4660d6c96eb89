"""Hands the trials of a plan to Ray Tune through its public searcher interface."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from puzzle_study.results import Results
from puzzle_study.study.plan import Plan
from puzzle_study.study.ray import OutOfSnapshots
from puzzle_study.trials.record import Record, read_record
from puzzle_study.trials.spec import TrialSpec

MOST_TRIALS, MOST_TURNS = 1000, 50
"""Trials of one run of Ray Tune, in all and for each worker; it keeps all of them in memory and in its snapshots.

At its end each worker waits for the last one, for at most a trial: one part in ``MOST_TURNS`` of the time.
"""
REFUSED = "refused"
"""Column in which a worker reports why it does not even begin with its trial."""
ENDED = "trial"
"""Column of a worker's last report of a trial: its key."""


def specs_of(tune_config: Mapping[str, Any]) -> list[TrialSpec]:
    """Return the trials that one of Ray Tune's runs together; most often one."""
    return [TrialSpec.from_json(content) for content in (tune_config["spec"], *tune_config.get("beside", ()))]


class PlanSearcher(OutOfSnapshots, Searcher):
    """Gives Ray Tune the next trial of a plan, or asks it to wait.

    The plan's records are authoritative: Ray's report of a trial only says when to read them. ``stopped`` has the
    records of trials that a stopping rule stopped, by Ray's trial id; they are written here. ``lost`` has the ids of
    trials whose last failure was the loss of their node: if Ray gives one up, the plan gives it to Ray anew.
    """

    def __init__(
        self, plan: Plan, results: Results, stopped: Mapping[str, Record], lost: Set[str] = frozenset()
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._plan, self._results, self._stopped, self._lost = plan, results, stopped, lost
        self._specs: dict[str, dict[str, TrialSpec]] = {}
        self._fruitful = set[str]()
        self._suggested = self._at_once = 0

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial, or group, as Ray Tune's configuration, None to wait, or FINISHED."""
        if self._has_enough():
            return Searcher.FINISHED
        specs = self._plan.take_together()
        if not specs:
            return Searcher.FINISHED if self._plan.ended() else None
        self._suggested += 1
        for spec in specs:
            # An earlier run's files of a trial that runs again would be taken for this run's result.
            self._results.remove_record(spec.key)
        self._specs[trial_id] = {spec.key: spec for spec in specs}
        self._at_once = max(self._at_once, len(self._specs))
        first, *beside = specs
        return {
            "name": self._plan.called(first),
            # Loggers show its settings; they have no groups.
            "spec": first.to_json(),
            "stoppable": self._plan.stoppable(first.key),
        } | ({"beside": [spec.to_json() for spec in beside]} if beside else {})

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Read the record of a trial that has ended, while others beside it in one process may go on."""
        specs = self._specs.get(trial_id, {})
        if (spec := specs.get(result.get(ENDED, ""))) is None:
            return
        record = read_record(self._results, spec.key)
        if record is not None:
            del specs[spec.key]
            self._fruitful.add(trial_id)
            self._done(spec, record)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Read the records that are left; a worker that refused or died without one leaves a failed record."""
        specs = self._specs.pop(trial_id, {})
        reason = (result or {}).get(REFUSED)
        crashed = error and trial_id not in self._lost
        without = [spec for spec in specs.values() if read_record(self._results, spec.key) is None]
        blamed = without[:1] if crashed else []
        if without and without[0].along:
            # What is left goes on from the checkpoint: if the worker got further, as it was, else without the next one.
            blamed = [] if trial_id in self._fruitful else blamed
        elif len(without) > 1 and crashed:
            # One of them may have brought the others down.
            self._plan.fusing.separate(without)
            blamed = []
        for spec in reversed(specs.values()):  # what goes back to the plan keeps its order there
            record = read_record(self._results, spec.key)
            if record is None and trial_id in self._stopped:
                record = self._stopped[trial_id]
                self._results.write_record(spec.key, record.to_json())
                shutil.rmtree(self._results.checkpoints(spec.key), ignore_errors=True)
            elif record is None and reason is not None:
                record = Record(spec, "failed", reason, user_error=reason)
            elif record is None and spec in blamed:
                log = self._results.log_file(spec.key)
                died = "its worker crashed repeatedly" + (f", see logs/{log.name}" if log.exists() else "")
                record = Record(spec, "failed", died)
            if record is None:
                self._plan.abandon(spec.key)
            else:
                self._done(spec, record)

    def _done(self, spec: TrialSpec, record: Record) -> None:
        self._plan.done(spec.key, record)
        # Reads the next records of earlier runs, so that progress does not count them as remaining.
        self._plan.next()

    def is_full(self) -> bool:
        """Return whether this run of Ray Tune had as many trials as it may have and all of them have ended."""
        return self._has_enough() and not self._specs

    def _has_enough(self) -> bool:
        return self._suggested >= max(MOST_TRIALS, MOST_TURNS * self._at_once)

    def abandon(self) -> None:
        """Give every running trial back to the plan, after Ray Tune has stopped."""
        for spec in (spec for specs in self._specs.values() for spec in specs.values()):
            record = read_record(self._results, spec.key)
            if record is None:
                self._plan.abandon(spec.key)
            else:
                self._plan.done(spec.key, record)
        self._specs.clear()

    def save(self, checkpoint_path: str) -> None:
        """Write only a note: the plan is rebuilt from records."""
        Path(checkpoint_path).write_text("rebuilt from records/\n", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Raise RuntimeError: a study is never restored from Ray's state."""
        raise RuntimeError("a study continues from its records: python -m puzzle_study.tune STUDY.yaml --resume")
