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

MOST_TRIALS, MOST_TURNS = 1000, 50
"""Trials of one run of Ray Tune, in all and for each worker; it keeps all of them in memory and in its snapshots.

At its end each worker waits for the last one, for at most a trial: one part in ``MOST_TURNS`` of the time.
"""
REFUSED = "refused"
"""Column in which a worker reports why it does not even begin with its trial."""


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
        self._specs: dict[str, Any] = {}
        self._suggested = self._at_once = 0

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial as Ray Tune's configuration, None to wait, or FINISHED."""
        if self._has_enough():
            return Searcher.FINISHED
        spec = self._plan.take()
        if spec is None:
            return Searcher.FINISHED if self._plan.ended() else None
        self._suggested += 1
        # An earlier run's files of a trial that runs again would be taken for this run's result.
        self._results.remove_record(spec.key)
        self._specs[trial_id] = spec
        self._at_once = max(self._at_once, len(self._specs))
        return {"name": self._plan.called(spec), "spec": spec.to_json(), "stoppable": self._plan.stoppable(spec.key)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Read the trial's record; a worker that refused or died without one leaves a failed record."""
        spec = self._specs.pop(trial_id, None)
        if spec is None:
            return
        record = read_record(self._results, spec.key)
        if record is None and trial_id in self._stopped:
            record = self._stopped[trial_id]
            self._results.write_record(spec.key, record.to_json())
            shutil.rmtree(self._results.checkpoints(spec.key), ignore_errors=True)
        reason = (result or {}).get(REFUSED)
        if record is None and reason is None and (not error or trial_id in self._lost):
            self._plan.abandon(spec.key)
            return
        if record is None and reason is not None:
            record = Record(spec, "failed", reason, user_error=reason)
        elif record is None:
            log = self._results.log_file(spec.key)
            died = "its worker crashed repeatedly" + (f", see logs/{log.name}" if log.exists() else "")
            record = Record(spec, "failed", died)
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
        for spec in self._specs.values():
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
