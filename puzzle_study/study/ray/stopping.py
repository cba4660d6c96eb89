"""Stops trials during training, by Ray Tune's own rules, each among the trials of one task.

Classes differ in difficulty: if all were compared, every trial of the hard ones would be stopped.
"""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from puzzle_study import config
from puzzle_study.study.ray import OutOfSnapshots
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec

METRIC = "selection"


class TaskwiseScheduler(OutOfSnapshots, FIFOScheduler):
    """Gives every task its own stopping rule, and remembers what it stopped and why.

    ``stopped`` receives the record by Ray's trial id, before the searcher learns that the trial ended.
    """

    def __init__(self, stopping: config.Stopping, stopped: dict[str, Record]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stopping, self._stopped = stopping, stopped
        self._rules: dict[str, TrialScheduler] = {}
        self._last: dict[str, dict[str, Any]] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if (rule := self._rule(trial)) is not None:
            rule.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        rule = self._rule(trial)
        if rule is None or METRIC not in result:
            return str(TrialScheduler.CONTINUE)
        self._last[trial.trial_id] = result
        decision = str(rule.on_trial_result(tune_controller, trial, result))
        if decision == TrialScheduler.STOP:
            reached = f"after epoch {result['epoch']} at selection {100 * result[METRIC]:.1f} %"
            self._stopped[trial.trial_id] = Record(
                TrialSpec.from_json(trial.config["specs"][0]),
                "stopped",
                f"{self._stopping.rule} stopped it {reached} among the trials of its task",
                measured={"epochs": result["epoch"]},
                # The trial stays stopped in studies with the same stopping rule, see the plan.
                stopping={"rule": self._stopping.model_dump(mode="json"), "selection": result[METRIC]},
            )
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Tell the rule how a trial ended, with its last result that has the criterion."""
        rule, last = self._rule(trial), self._last.pop(trial.trial_id, None)
        if rule is not None and last is not None:
            rule.on_trial_complete(tune_controller, trial, last)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        if (rule := self._rule(trial)) is not None:
            rule.on_trial_remove(tune_controller, trial)

    def _rule(self, trial: Any) -> TrialScheduler | None:
        """Return the rule of a trial's task; None if the trial must not be stopped."""
        if not trial.config["stoppable"]:
            return None
        task = repr(sorted(trial.config["specs"][0]["task"].items()))
        if task not in self._rules:
            self._rules[task] = make_rule(self._stopping)
        return self._rules[task]


def make_rule(stopping: config.Stopping) -> TrialScheduler:
    """Return Ray's scheduler for a rule; it stops trials, never pauses them."""
    if stopping.rule == "median":
        return MedianStoppingRule(
            time_attr="epoch",
            metric=METRIC,
            mode="max",
            grace_period=stopping.grace_epochs,
            # Yielding to other trials would restart the worker each time.
            min_time_slice=config.MOST_EPOCHS,
        )
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        grace_period=stopping.grace_epochs,
        reduction_factor=stopping.reduction,
        # The trial itself ends its training; this only has to leave room for every rung.
        max_t=config.MOST_EPOCHS,
        stop_last_trials=False,
    )
