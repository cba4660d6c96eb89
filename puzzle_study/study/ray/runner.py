"""Runs the trials of a plan on Ray Tune. Only this folder imports Ray."""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.schedulers import TrialScheduler

from puzzle_study import config
from puzzle_study.detectors.devices import claim_cpus, granted_device
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study.disk import cannot_write
from puzzle_study.study.failing import common_failure
from puzzle_study.study.nodes import places_now
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.ray import OutOfSnapshots
from puzzle_study.study.ray.loggers import make_loggers
from puzzle_study.study.ray.losing import PatientScheduler
from puzzle_study.study.ray.searcher import ENDED, REFUSED, PlanSearcher, specs_of
from puzzle_study.study.ray.stopping import METRIC, TaskwiseScheduler
from puzzle_study.study.storage import Place
from puzzle_study.study.work import TrialsLeft
from puzzle_study.trials.along import run_along
from puzzle_study.trials.record import Record, records
from puzzle_study.trials.run import Trial
from puzzle_study.trials.spec import TrialSpec
from puzzle_study.trials.together import run_together
from puzzle_study.trials.worth import shown

REPORT_SECONDS = 1.0
WORKER_RESTARTS = 3
CANNOT_WRITE = "cannot_write"
OF = "of"
"""Column of a worker's report of an epoch: the key of the trial."""


class End(enum.Enum):
    """Why a run of Ray Tune ended: nothing is left or it was interrupted; it had enough trials; memory ran out."""

    DONE, FULL, OUT_OF_MEMORY = enum.auto(), enum.auto(), enum.auto()


class LogFollower:
    """Prints whole new lines of running trials' logs, each after the name of its trial."""

    def __init__(self, results: Results, say: Callable[[str], None]) -> None:
        self._results, self._say = results, say
        self._shown: dict[str, int] = {}

    def begin(self, trial: str) -> None:
        """Follow a trial's log, without the lines of earlier runs."""
        path = self._results.log_file(trial)
        self._shown.setdefault(trial, path.stat().st_size if path.exists() else 0)

    def end(self, trial: str) -> None:
        """Print the rest of a trial's log and follow it no longer."""
        self.print_new()
        self._shown.pop(trial, None)

    def print_new(self) -> None:
        for trial, start in sorted(self._shown.items()):
            path = self._results.log_file(trial)
            if not path.exists() or path.stat().st_size <= start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                lines, newline, _ = file.read().rpartition(b"\n")
            self._shown[trial] = start + len(lines) + len(newline)
            for line in lines.decode(errors="replace").splitlines():
                self._say(f"{trial} {line}")


class ProgressCallback(OutOfSnapshots, tune.Callback):
    """Shows the plan's state on the live line."""

    def __init__(self, plan: Plan, progress: StageProgress, follower: LogFollower | None) -> None:
        self._plan, self._progress, self._follower = plan, progress, follower
        self._left = TrialsLeft(plan, progress.time_left)

    def setup(self, *arguments: Any, **info: Any) -> None:
        """Begin a run, in which nothing runs yet."""
        self._left.clear()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        for spec in self._open(trial):
            self._left.started(spec.key, spec, time.monotonic())
            if self._follower is not None:
                self._follower.begin(spec.key)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if ENDED in result:
            self._ended([result[ENDED]])
        elif "epoch" in result:
            self._left.reported(result[OF], result["epoch"], time.monotonic())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended([spec.key for spec in specs_of(trial.config)])

    def _open(self, trial: Any) -> list[TrialSpec]:
        """Return the trials of one of Ray Tune's that have no record."""
        return [spec for spec in specs_of(trial.config) if spec.key not in self._plan.records]

    def _ended(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._left.ended(key, self._plan.records.get(key), time.monotonic())
            if self._follower is not None:
                self._follower.end(key)
        self._progress.follow(self._left.epochs)
        best = self._plan.leader()
        worth = shown(self._plan.objectives[0], best[2][0]) if best else ""
        text = f"{worth} by {best[0].titled}, {best[1].aggregation}" if best else ""
        self._progress.update(self._plan.finished(), total=self._plan.total, best=text)

    on_trial_error = on_trial_complete

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report that a worker is gone but its trial continues."""
        for key in (spec.key for spec in self._open(trial)):
            self._progress.say(f"the worker of trial {key} stopped; the trial continues (see logs/{key}.log)")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._progress.follow(self._left.epochs)
        self._progress.tick()
        if self._follower is not None:
            self._follower.print_new()


class EndsTheStudy(OutOfSnapshots, tune.Stopper):
    """Ends the run if more trials could only fail: one could not write, or the first all had the same user error."""

    def __init__(self, plan: Plan, results: Results) -> None:
        self.sentence: str | None = None
        self._plan = plan
        # --resume first tries failed trials again, when finished ones may not have been chosen yet.
        self._worked_before = any(record.worked for record in plan.records.values()) or any(
            record.worked for record in records(results)
        )
        self._training: set[str] = set()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether this trial could not write."""
        self.sentence = self.sentence or result.get(CANNOT_WRITE)
        (self._training.add if result.get("epoch") else self._training.discard)(trial_id)
        return CANNOT_WRITE in result

    def stop_all(self) -> bool:
        if self.sentence is None and not self._worked_before and not self._training:
            self.sentence = common_failure(self._plan)
        return self.sentence is not None


def run_trials(plan: Plan, results: Results, progress: StageProgress, place: Place, *, verbose: bool = False) -> None:
    """Run every trial of a plan that has no record yet.

    If interrupted, Ray Tune stops its trials and this returns: ask the plan whether it is complete.

    Raises:
        UserError: a worker could not write into the results folder, the store became unreachable, or the first trials
            all failed with one user error, which is passed on.
    """
    # A dying worker is reported in one line; Ray would add its own traceback.
    logging.getLogger("ray").setLevel(logging.INFO if verbose else logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.INFO if verbose else logging.CRITICAL)
    # At the end it looks for Ray's own result files, which this package does not use, and complains about each.
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR if verbose else logging.CRITICAL)
    follower = LogFollower(results, progress.say) if verbose else None
    stopping, stopped, lost = plan.study.search.stopping if plan.study.search else None, dict[str, Record](), set[str]()
    callbacks = [ProgressCallback(plan, progress, follower), *make_loggers(plan.study, results)]
    scheduler = TaskwiseScheduler(stopping, stopped, lost) if stopping else PatientScheduler(lost)
    short, finished = 0, plan.finished()
    while True:
        searcher = PlanSearcher(plan, place.arriving(results), stopped, lost)
        end = _fit(plan, results, place, searcher, scheduler, callbacks)
        if end is End.DONE:
            break
        if end is End.FULL:
            continue
        short, finished = (short + 1 if plan.finished() == finished else 1), plan.finished()
        if short > WORKER_RESTARTS:
            raise UserError(
                f"memory ran out {short} times before another trial was finished; run fewer at once (max_concurrent, "
                f"resources) or free memory, then continue with --resume"
            )
        progress.say("memory ran out, so Ray stopped workers; their trials continue from their last checkpoint")
    if follower is not None:
        follower.print_new()


def _fit(
    plan: Plan,
    results: Results,
    place: Place,
    searcher: PlanSearcher,
    scheduler: TrialScheduler,
    callbacks: list[tune.Callback],
) -> End:
    """Run the rest of a plan, or as many trials as one run of Ray Tune may have."""
    study = plan.study
    failure = EndsTheStudy(plan, results)
    trainable = tune.with_resources(
        tune.with_parameters(_trainable, place=place, resources=study.resources, images=study.data),
        {"cpu": study.resources.cpu, "gpu": study.resources.gpu},
    )
    # With one trial waiting, Ray Tune's choice, workers start one after the other, and one that is starting is given
    # up whenever a trial ends: short trials would all run on the first.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(places_now(study.resources))
    storage = results.ray.resolve()
    storage.mkdir(parents=True, exist_ok=True)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=study.max_concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            # Loggers show it.
            trial_name_creator=lambda trial: str(trial.config["name"]),
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(storage),
            verbose=0,
            callbacks=callbacks,
            failure_config=tune.FailureConfig(max_failures=WORKER_RESTARTS),
            stop=failure,
        ),
    )
    try:
        tuner.fit()
    except tune.TuneError as error:
        # Ray Tune wraps the searcher's error about an unreachable store in its own.
        if isinstance(error.__context__, UserError):
            raise error.__context__ from None
        raise
    except RuntimeError as error:
        # A worker that Ray kills before memory runs out is a worker that died to everybody but Ray Tune (2.60).
        if not isinstance(error.__cause__, OutOfMemoryError):
            raise
        searcher.abandon()
        return End.OUT_OF_MEMORY
    if failure.stop_all():
        raise UserError(failure.sentence)
    return End.FULL if searcher.is_full() and not plan.ended() else End.DONE


def _trainable(tune_config: dict[str, Any], place: Place, resources: config.Resources, images: config.Data) -> None:
    """Run one trial, or several together, in a Ray worker, reporting the epochs of each and when it has ended."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    claim_cpus(resources.cpu)
    specs = specs_of(tune_config)
    try:
        device = granted_device(resources.gpu)
        with contextlib.ExitStack() as places:
            places_of: dict[str, contextlib.ExitStack] = {}
            trials = []
            # What has a record ended before its group's worker died.
            left = specs if len(specs) == 1 else [spec for spec in specs if not place.has_record(spec.key)]
            for spec in left:
                places_of[spec.key] = own = places.enter_context(contextlib.ExitStack())
                trained = spec.along and spec is left[-1]
                results, saved = own.enter_context(place.trial(spec.key, stem=spec.stem if trained else None))
                on_epoch = _reporting(spec, saved)
                trials.append(Trial(spec, results, device=device, on_epoch=on_epoch, images=images))

            def ended(trial: Trial) -> None:
                places_of[trial.spec.key].close()  # with a store, its files arrive there
                tune.report({"epoch": trial.ended.column("epochs") or 0, ENDED: trial.spec.key})

            if specs[0].along:
                run_along(trials, ended)
            else:
                for trial in run_together(trials):
                    ended(trial)
    except Exception as error:
        if (sentence := cannot_write(error, Path(place.root))) is not None:
            tune.report({CANNOT_WRITE: sentence})
        elif isinstance(error, UserError):  # of this machine; Ray would try again what can only end the same
            tune.report({REFUSED: str(error)})
        else:
            raise


def _reporting(spec: TrialSpec, saved: Callable[[], None]) -> Callable[[dict[str, float]], None]:
    """Return what reports a trial's epochs: every evaluation, and otherwise at most one a second."""
    last = time.monotonic()

    def on_epoch(row: dict[str, float]) -> None:
        nonlocal last
        saved()
        reading = spec.settings.own.reading
        criterion = row.get(f"selection_{reading.aggregation}_{reading.error}")
        if criterion is not None:
            row = row | {METRIC: criterion}
        if criterion is not None or time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            tune.report({**row, OF: spec.key})

    return on_epoch


@contextlib.contextmanager
def sigterm_as_sigint() -> Iterator[list[int]]:
    """Let SIGTERM stop Ray Tune the way Ctrl-C does; yields a list that receives the number of the signal.

    Ray Tune handles SIGINT itself while it runs: it stops its trials and returns as if all were well. SIGTERM would
    abort it. Must be entered after Ray has started, which installs a handler of its own. A shell's script starts
    background commands with SIGINT ignored; SIGTERM still stops them.
    """
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    interrupt, terminate = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGTERM, forward)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGINT, interrupt)
