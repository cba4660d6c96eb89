"""Runs the trials of a plan on Ray Tune. Nothing outside this folder imports Ray."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ray import tune

from puzzle_study.devices import default_device
from puzzle_study.results import Results
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.searcher import PlanSearcher
from puzzle_study.trial import run
from puzzle_study.trial_spec import TrialSpec

REPORT_SECONDS = 1.0
WORKER_RESTARTS = 3


class ProgressCallback(tune.Callback):
    """Shows on the live line what the plan knows."""

    def __init__(self, plan: Plan, progress: StageProgress) -> None:
        self._plan, self._progress = plan, progress

    def __getstate__(self) -> dict[str, Any]:
        """Leave plan and screen out of Ray's snapshots."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count a trial that ended."""
        self._show()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count a trial that failed."""
        self._show()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Keep the time left moving."""
        self._progress.tick()

    def _show(self) -> None:
        best = self._plan.winner()
        shown = f"{100 * best[2]:.1f} % (number {best[0].number}, {best[1].aggregation})" if best else ""
        self._progress.update(self._plan.finished(), total=self._plan.total, best=shown)


def run_trials(plan: Plan, results: Results, progress: StageProgress) -> None:
    """Run every trial of a plan that has no record yet.

    When interrupted, Ray Tune stops its trials and this returns: ask the plan whether it is complete.

    Args:
        plan: what to train.
        results: where records, checkpoints and Ray's own files go.
        progress: the live line.
    """
    study = plan.study
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    trainable = tune.with_resources(
        tune.with_parameters(_trainable, root=str(results.root), cpu=study.resources.cpu),
        {"cpu": study.resources.cpu, "gpu": study.resources.gpu},
    )
    storage = results.ray.resolve()
    storage.mkdir(parents=True, exist_ok=True)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=PlanSearcher(plan, results),
            num_samples=-1,
            max_concurrent_trials=study.max_concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(storage),
            verbose=0,
            callbacks=[ProgressCallback(plan, progress)],
            failure_config=tune.FailureConfig(max_failures=WORKER_RESTARTS),
        ),
    )
    tuner.fit()


def _trainable(tune_config: dict[str, Any], root: str, cpu: float) -> None:
    """What a Ray worker does: one trial, reporting at most once a second."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    torch.set_num_threads(max(1, int(cpu)))
    spec = TrialSpec.from_json(tune_config["spec"])
    last = time.monotonic()

    def on_epoch(row: dict[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            tune.report({"epoch": row["epoch"], "loss_rec": row["loss_rec"]})

    record = run(spec, Results(Path(root)), device=default_device(), on_epoch=on_epoch)
    tune.report({"epoch": record.get("epochs", 0), "trial": spec.key})


@contextlib.contextmanager
def sigterm_as_sigint() -> Iterator[list[int]]:
    """Let SIGTERM stop Ray Tune the way Ctrl-C does; yields a list that receives the number of the signal.

    Ray Tune handles SIGINT itself while it runs: it stops its trials and returns as if all were well. SIGTERM would
    abort it. Must be entered after Ray has started, which installs a handler of its own.
    """
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        signal.raise_signal(signal.SIGINT)

    interrupt, terminate = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGTERM, forward)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGINT, interrupt)
