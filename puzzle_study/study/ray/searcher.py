"""Hands the trials of a plan to Ray Tune through its public searcher interface."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from puzzle_study.results import Results
from puzzle_study.study.plan import Plan
from puzzle_study.study.ray import OutOfSnapshots
from puzzle_study.trials.record import Record, read_record

REFUSED = "refused"
"""Column in which a worker reports why it does not even begin with its trial."""


class PlanSearcher(OutOfSnapshots, Searcher):
    """Gives Ray Tune the next trial of a plan, or asks it to wait.

    The plan's records are the truth: Ray's report of a trial only says that it is time to read them. ``stopped`` holds
    what a stopping rule stopped, by Ray's trial id; such trials get their record here.
    """

    def __init__(self, plan: Plan, results: Results, stopped: Mapping[str, Record]) -> None:
        super().__init__(metric=None, mode=None)
        self._plan, self._results, self._stopped = plan, results, stopped
        self._specs: dict[str, Any] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial as Ray Tune's configuration, None to wait, or FINISHED."""
        spec = self._plan.take()
        if spec is None:
            return Searcher.FINISHED if self._plan.ended() else None
        # What an earlier run left of a trial that is run again would be taken for the outcome of this one.
        self._results.remove_record(spec.key)
        self._specs[trial_id] = spec
        return {"spec": spec.to_json(), "stoppable": self._plan.stoppable(spec.key)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take in the trial's record; a worker that refused or died without one leaves a failed record."""
        spec = self._specs.pop(trial_id, None)
        if spec is None:
            return
        record = read_record(self._results, spec.key)
        if record is None and trial_id in self._stopped:
            record = self._stopped[trial_id]
            self._results.write_record(spec.key, record.to_json())
            shutil.rmtree(self._results.checkpoints(spec.key), ignore_errors=True)
        reason = (result or {}).get(REFUSED)
        if record is None and reason is None and not error:
            self._plan.abandon(spec.key)
            return
        if record is None and reason is not None:
            record = Record(spec, "failed", reason, user_error=reason)
        elif record is None:
            log = self._results.log_file(spec.key)
            died = "its worker crashed repeatedly" + (f", see logs/{log.name}" if log.exists() else "")
            record = Record(spec, "failed", died)
        self._plan.done(spec.key, record)
        # Takes in the records of earlier runs that come next, so that progress does not count them as still to do.
        self._plan.next()

    def abandon(self) -> None:
        """Give every trial that is running back to the plan, after Ray Tune has broken off."""
        for spec in self._specs.values():
            record = read_record(self._results, spec.key)
            if record is None:
                self._plan.abandon(spec.key)
            else:
                self._plan.done(spec.key, record)
        self._specs.clear()

    def save(self, checkpoint_path: str) -> None:
        """Write a note only: the plan is rebuilt from records."""
        Path(checkpoint_path).write_text("rebuilt from records/\n", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Raise RuntimeError: a study is never restored from Ray's state."""
        raise RuntimeError("a study goes on from its records: python -m puzzle_study.tune STUDY.yaml --resume")
