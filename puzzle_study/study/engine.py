"""A study from its file to its report; every stage takes up what an earlier run left."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from typing import Any

import filelock
import torch
from rich.console import Console

from puzzle_study import datasets
from puzzle_study.config import Reading, read
from puzzle_study.detectors.devices import default_device, resolve_precision, threads
from puzzle_study.detectors.files import DESCRIPTION, WEIGHTS
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE
from puzzle_study.results import Results, replace_folder, write_json, write_text
from puzzle_study.study import attacking, environment, space
from puzzle_study.study.attack_units import Unit
from puzzle_study.study.changes import compare
from puzzle_study.study.disk import cannot_write
from puzzle_study.study.gallery import write_gallery
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import StageProgress, duration
from puzzle_study.study.ray.cluster import started_ray
from puzzle_study.study.ray.loggers import check_loggers
from puzzle_study.study.selection import chosen_by, lacking, require_labels, shown
from puzzle_study.study.storage import Place
from puzzle_study.study.tables import write_tables
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec

INTERRUPTED = 130
TERMINATED = 143
FAILED = 1


def make_plan(file: read.StudyFile, results: Results) -> Plan:
    """Return the plan of a study, with what is finished already.

    Raises:
        UserError: images are missing or damaged, a class does not exist, or the selection needs labels of test
            images that are not there.
    """
    require_labels(file.study.data, file.study.selection)
    tasks = datasets.task_specs(file.study.data)
    return Plan(file, tasks, datasets.fingerprint(file.study.data), results)


def run_study(
    file: read.StudyFile,
    folder: Path,
    *,
    resume: bool,
    console: Console,
    address: str | None = None,
    verbose: bool = False,
) -> int:
    """Run a study, or what is left of it.

    Args:
        file: the study file.
        folder: where ``<name>/`` with the results goes.
        resume: go on with an interrupted study.
        console: where progress and the closing lines go.
        address: a running Ray cluster, ``auto`` or HOST:PORT; None: Ray is started on this machine.
        verbose: whether the logs of trials and Ray's messages go there too.

    Returns:
        The exit code: 0 all done, 1 trials failed, 130 or 143 interrupted.

    Raises:
        UserError: the study cannot be run as asked, or its folder cannot be written; nothing finished is damaged.
    """
    results = Results((folder / file.study.name).resolve())
    try:
        return _run_study(file, results, resume=resume, console=console, address=address, verbose=verbose)
    except UserError:
        raise
    except Exception as error:
        if (sentence := cannot_write(error, results.root)) is None:
            raise
        raise UserError(sentence) from error


def _run_study(
    file: read.StudyFile, results: Results, *, resume: bool, console: Console, address: str | None, verbose: bool
) -> int:
    place = Place.of(results, file.study.storage)
    place.fetch()
    plan = make_plan(file, results)
    changes = compare(results, file, plan.tasks, plan.fingerprint)
    if changes is not None:
        units = attacking.attack_units(plan) if plan.complete else []
        if plan.complete and not changes.settings and _finished(plan, results, units):
            console.print(
                f"{file.study.name} is finished: {_shown(results.report / 'index.html')}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            return 0
        if (refusal := changes.refusal(_shown(results.root), resume=resume)) is not None:
            raise UserError(refusal)
        if changes.settings:
            console.print(f"the study file changed: {changes}", highlight=False, markup=False, soft_wrap=True)
    for name, reason in space.inert_axes(file).items():
        console.print(f"search axis {name} has no effect: {reason}", highlight=False, markup=False, soft_wrap=True)
    if (note := space.validation_note(file.study)) is not None:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    with _locked(results):
        # The same plan again, this time writing down for optuna-dashboard what it asks and tells.
        plan = Plan(file, plan.tasks, plan.fingerprint, results, journal=results.optuna_file)
        return _run_locked(file, plan, results, console, place, address, verbose=verbose)


def _run_locked(
    file: read.StudyFile,
    plan: Plan,
    results: Results,
    console: Console,
    place: Place,
    address: str | None,
    *,
    verbose: bool,
) -> int:
    started = time.monotonic()
    before = results.environment()
    described = environment.describe() | {
        "seeds": {"search": file.study.search.seed if file.study.search else None, "training": list(file.study.seeds)},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": before.get("started") or _now(),
        "finished": None,
        "wall_seconds": before.get("wall_seconds", 0.0),
    }
    described["notes"] = datasets.notes(file.study.data)
    for note in described["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    device = default_device() if file.study.resources.gpu else torch.device("cpu")
    described["hardware"] |= {
        "precision": {
            name: resolve_precision(own.precision_wanted, device) for name, own in file.study.detectors.items()
        },
        "threads": threads(file.study.resources.cpu),
    }
    if device.type == "cpu":  # a GPU that the study leaves alone has no part in its numbers
        described["hardware"]["gpu"] = None

    def ended(**more: Any) -> dict[str, Any]:
        return described | {"wall_seconds": before.get("wall_seconds", 0.0) + time.monotonic() - started} | more

    if plan.next() is not None:
        check_loggers(file.study)
    received: list[int] = []
    with contextlib.ExitStack() as stack:
        if plan.next() is not None or file.study.attacks is not None:
            stack.enter_context(started_ray(file.study, place, plan.fingerprint, address, console, verbose=verbose))
            # Ray reads its environment when it is imported, so nothing imports it before started_ray has set that.
            from puzzle_study.study.ray.runner import run_trials, sigterm_as_sigint

            received = stack.enter_context(sigterm_as_sigint())
        # Only now: what the machine or the cluster cannot run leaves no begun study behind.
        write_text(results.study_file, read.dump(file.study))
        write_json(results.environment_file, described)
        place.publish(finished=False)
        try:
            if plan.next() is not None:
                with StageProgress("trials", plan.total, done=plan.finished(), console=console) as progress:
                    run_trials(plan, results, progress, place, verbose=verbose)
                place.collect()
            write_tables(plan, results)
            if not plan.complete:
                raise KeyboardInterrupt
            units = attacking.attack_units(plan)
            done = sum(results.attack_record(unit.key) is not None for unit in units)
            if done < len(units):
                with StageProgress("attacks", len(units), done=done, console=console) as progress:
                    attacking.run_attack_stage(
                        units,
                        results,
                        file.study.resources,
                        progress,
                        place=place,
                        images=file.study.data,
                        max_concurrent=file.study.max_concurrent,
                    )
                place.collect()
        except KeyboardInterrupt:
            write_json(results.environment_file, ended())
            console.quiet = False  # what to do next is said to everybody
            console.print(
                f"interrupted with {plan.finished()} of {plan.total} trials done; go on with --resume",
                highlight=False,
                soft_wrap=True,
            )
            # What the store holds comes back with --resume, and must not forget this run's time.
            place.bring(results.environment_file)
            return TERMINATED if received else INTERRUPTED
    attacking.write_attack_tables(plan, results)
    winner = plan.winner()
    if winner is not None:
        _write_best(plan, results)
        write_gallery(winner[0].trials, winner[1], attacking.example_keys(plan), results)
    from puzzle_study.reporting import build_report

    environment_then = ended(finished=_now())
    page = build_report(_Ended(results.root, environment_then))
    # Last: a study that is killed while its report is drawn is not finished.
    write_json(results.environment_file, environment_then)
    place.publish(finished=True)
    return _close(plan, results, page, console, time.monotonic() - started)


def _close(plan: Plan, results: Results, page: Path, console: Console, seconds: float) -> int:
    winner = plan.winner()
    failed = [key for key, record in plan.records.items() if record.status == "failed"]
    if winner is not None:
        planned, reading, worth = winner
        records = [plan.records[spec.key] for spec in planned.trials]
        title = DETECTORS[planned.settings.detector].title
        label = f"{title}, {'default' if planned.default else f'number {planned.number}'}"
        console.print(
            f"winner: {label}, {reading.aggregation}, {_reached(records, reading)} "
            f"(chosen by {chosen_by(plan.study)}, {shown(plan.objectives[0], worth[0])}), in {duration(seconds)}",
            highlight=False,
            soft_wrap=True,
        )
    if results.optuna_file.exists():
        console.print(
            f"search: optuna-dashboard {_shown(results.optuna_file)}", highlight=False, markup=False, soft_wrap=True
        )
    console.quiet = False
    console.print(f"report: {_shown(page)}", highlight=False, markup=False, soft_wrap=True)
    if failed:
        console.print(
            f"{len(failed)} trials failed, see trials.csv; --resume tries them again", highlight=False, style="bold red"
        )
        return FAILED
    return 0


def _reached(records: Sequence[Record], reading: Reading) -> str:
    """Return what a configuration reaches on the test images, and what they lack."""
    lacks = lacking([(record.measured["n_test"], record.measured["n_anomalies"]) for record in records])
    aurocs = [value for record in records if (value := record.value(reading, "auroc")) is not None]
    parts = [f"mean test AUROC {100 * fmean(aurocs):.1f} %, n = {len(aurocs)}"] if aurocs else []
    parts += [lacks] if lacks else []
    for kind in () if aurocs else ("normal", "anomalous"):
        shares = [share for record in records if (share := record.value(reading, f"flagged_{kind}")) is not None]
        if shares:
            parts.append(
                f"{100 * fmean(shares):.1f} % of the {kind} test images are above the threshold for "
                f"{100 * FALSE_POSITIVE_RATE:g} % false alarms"
            )
    return "; ".join(parts)


def _write_best(plan: Plan, results: Results) -> None:
    """Copy the winner's detectors to best/<normal class>, with the aggregation that won."""
    winner = plan.winner()
    assert winner is not None
    planned, reading, _ = winner
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / "best"
        for spec, name in zip(planned.trials, best_names(plan, planned.trials), strict=True):
            target = staged / name
            path = target / DESCRIPTION
            try:
                shutil.copytree(results.detector(spec.key), target)
                content = json.loads(path.read_text(encoding="utf-8"))
            except (FileNotFoundError, ValueError) as error:
                raise UserError(
                    f"{results.detector(spec.key)} is missing or damaged; put it back, or delete "
                    f"records/{spec.key}.json and train it again with --resume"
                ) from error
            content["reading"] = {"error": reading.error, "aggregation": reading.aggregation}
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        replace_folder(staged, results.best)


def best_names(plan: Plan, trials: Sequence[TrialSpec]) -> list[str]:
    """Return the name below best/ of each trial's detector: its class, and repeat and seed where there are several."""
    classes = _class_names(spec.task.normal_class for spec in trials)
    repeats, seeds = len({task.repeat for task in plan.tasks}) > 1, len(plan.study.seeds) > 1
    return [
        classes[spec.task.normal_class]
        + (f"-repeat{spec.task.repeat}" if repeats else "")
        + (f"-seed{spec.seed}" if seeds else "")
        for spec in trials
    ]


def _class_names(classes: Iterable[str]) -> dict[str, str]:
    """Return a name for each class that any file system takes; no two classes share one."""
    plain = {
        name: "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name) for name in classes
    }
    found: dict[str, str] = {}
    # Classes whose name can stay as it is come first, so that no other one takes it.
    for name in sorted(plain, key=lambda name: plain[name] != name):
        wanted = itertools.chain([plain[name]], (f"{plain[name]}-{number}" for number in itertools.count(2)))
        found[name] = next(free for free in wanted if free not in found.values())
    return found


class _Ended(Results):
    """Results of a study whose report is being drawn: it shows what environment.json says only after that."""

    def __init__(self, root: Path, environment: dict[str, Any]) -> None:
        super().__init__(root)
        self._environment = environment

    def environment(self) -> dict[str, Any]:
        """Return what environment.json will say."""
        return self._environment


def _finished(plan: Plan, results: Results, units: list[Unit]) -> bool:
    """Whether a complete plan was written out to its end, and all that is made of its records is still there."""
    return (
        results.environment().get("finished") is not None
        and all(path.exists() for path in _made(plan, results))
        and all(results.attack_record(unit.key) is not None for unit in units)
    )


def _made(plan: Plan, results: Results) -> list[Path]:
    """Return the files that are made of a study's records."""
    attacks, winner = plan.study.attacks, plan.winner()
    made = [results.trials_file, results.epochs_file, results.summary_file, results.attacks_file]
    made += [results.matrix_file] if attacks is not None and attacks.matrix else []
    made += [results.transfer_file] if attacks is not None and attacks.transfer else []
    if winner is not None:
        names = best_names(plan, winner[0].trials)
        made += [results.best / name / file for name in names for file in (WEIGHTS, DESCRIPTION)]
        made.append(results.gallery_file)
    return [*made, results.report / "index.html"]


@contextlib.contextmanager
def _locked(results: Results) -> Iterator[None]:
    """Hold the results folder; the lock goes with the process, however it ends."""
    results.root.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(results.lock_file, timeout=0):
            yield
    except filelock.Timeout as error:
        raise UserError(f"{_shown(results.root)} is in use by another run; wait for it or use --results") from error


def _shown(path: Path) -> str:
    """Return a path as short as it can be from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
