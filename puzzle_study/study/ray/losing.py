"""Trials whose node was lost: they continue on another one, and this is not one of the trial's failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloudpickle
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune.schedulers import FIFOScheduler

from puzzle_study.study.ray import OutOfSnapshots

ITS_NODE = "its node has died"
"""Ray's words for a worker that died with its node; the error has no other sign of it (2.60)."""


class PatientScheduler(OutOfSnapshots, FIFOScheduler):
    """Lets Ray try a trial once more for each node that was lost.

    ``lost`` has the Ray ids of the trials whose last failure was the loss of their node. Ray Tune itself forgives only
    nodes that an autoscaler announced to drain.
    """

    def __init__(self, lost: set[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._lost = lost

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Look at why a trial's worker is gone; Ray Tune calls this before it gives a trial up, or tries it again."""
        error = last_error(trial)
        if error is None or not lost_its_node(error):
            self._lost.discard(trial.trial_id)
            return
        self._lost.add(trial.trial_id)
        if not getattr(error, "preempted", False):  # those are not counted by Ray itself
            trial.max_failures += 1


def lost_its_node(error: BaseException) -> bool:
    """Whether a worker is gone because its node is: announced, pulled, or out of reach."""
    if not isinstance(error, RayActorError):
        return False
    return error.preempted or isinstance(error, ActorUnavailableError) or ITS_NODE in str(error)


def last_error(trial: Any) -> BaseException | None:
    """Return the error that ended a trial's worker, or None if it left none that can be read."""
    try:
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError, EOFError, AttributeError, ImportError):
        return None
    return error if isinstance(error, BaseException) else None
