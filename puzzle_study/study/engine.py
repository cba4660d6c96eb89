"""A study from its file to its report; every stage takes up what an earlier run left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import filelock
from rich.console import Console

from puzzle_study import datasets
from puzzle_study.cli import INTERRUPTED
from puzzle_study.config import Reading, read
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE
from puzzle_study.io import write_json, write_text
from puzzle_study.results import Results
from puzzle_study.study import attacking, best, corrupting, space
from puzzle_study.study.changes import compare
from puzzle_study.study.disk import cannot_write
from puzzle_study.study.environment import Account
from puzzle_study.study.gallery import write_gallery
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import StageProgress, duration
from puzzle_study.study.ray.cluster import started_ray
from puzzle_study.study.ray.loggers import check_loggers
from puzzle_study.study.storage import Place
from puzzle_study.study.tables import write_tables
from puzzle_study.trials.record import Record
from puzzle_study.trials.worth import chosen_by, lacking, require_labels, shown

FAILED, TERMINATED = 1, 143


def make_plan(file: read.StudyFile, results: Results) -> Plan:
    """Return the plan of a study; it takes in what is finished as it is asked for trials.

    Raises:
        UserError: images are missing or damaged, a class does not exist, or the selection needs test labels that are
            not there.
    """
    require_labels(file.study.data, file.study.selection)
    corrupting.require_colour(file.study)
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
        verbose: print the logs of trials and Ray's messages too.

    Returns:
        The exit code: 0 all done, 1 trials failed, 130 or 143 interrupted.

    Raises:
        UserError: the study cannot be run as asked, or its folder cannot be written; nothing finished is damaged.
    """
    results = Results((folder / file.study.name).resolve())
    try:
        place = Place.of(results, file.study.storage)
        place.fetch()
        plan = make_plan(file, results)
        changes = compare(results, file, plan.tasks, plan.fingerprint)
        with _locked(results):
            run = _Run(file, plan, results, place, console, verbose)
            if changes is not None and not changes.settings and run.is_finished():
                run.say(f"{file.study.name} is finished: {_shown(results.report_file)}")
                return 0
            if changes is not None:
                if (refusal := changes.refusal(_shown(results.root), resume=resume)) is not None:
                    raise UserError(refusal)
                if changes.settings:
                    run.say(f"the study file changed: {changes}")
            # Only now: a study that is finished or refused changes no file.
            plan.keep_search(results.optuna_file)
            return run.go(address)
    except UserError:
        raise
    except Exception as error:
        if (sentence := cannot_write(error, results.root)) is None:
            raise
        raise UserError(sentence) from error


@dataclass(frozen=True)
class _Run:
    """One run of a study whose folder is locked."""

    file: read.StudyFile
    plan: Plan
    results: Results
    place: Place
    console: Console
    verbose: bool

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line as it is."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True, style=style)

    def is_finished(self) -> bool:
        """Return whether the study ran to its end and every file made from its records is still there."""
        return (
            self.plan.ended()
            and self.results.environment().get("finished") is not None
            and all(path.exists() for path in self._made())
            and not self._units_left()
        )

    def _units_left(self) -> int:
        """Return how many units of the stages after the trainings have no record."""
        return self._attacks_left() + len(corrupting.left(self.plan, self.results))

    def _attacks_left(self) -> int:
        """Return how many units of the attack stage have no record."""
        units = attacking.attack_units(self.plan)
        return sum(self.results.attack_record(unit.key) is None for unit in units)

    def _made(self) -> list[Path]:
        """Return the files that are made from a study's records."""
        results, attacks, winner = self.results, self.file.study.attacks, self.plan.winner()
        made = [results.trials_file, results.epochs_file, results.summary_file, results.attacks_file]
        made += [results.matrix_file] if attacks is not None and attacks.matrix else []
        made += [results.transfer_file] if attacks is not None and attacks.transfer else []
        made += [results.corruptions_file] if self.file.study.corruptions is not None else []
        if winner is not None:
            made += [*best.files(self.plan, winner[0].trials, results), results.gallery_file]
        return [*made, results.report_file]

    def go(self, address: str | None) -> int:
        """Run what is left and return the exit code."""
        study, account = self.file.study, Account(self.file.study, self.results)
        for name, reason in space.inert_axes(self.file).items():
            self.say(f"search axis {name} has no effect: {reason}")
        notes = [f"note: {note}" for note in account.notes]
        for note in (space.validation_note(study), *notes):
            if note is not None:
                self.say(note)
        if self.plan.next() is not None:
            check_loggers(study)
        with contextlib.ExitStack() as stack:
            received: list[int] = []
            if not self.plan.ended() or self._units_left():
                ray = started_ray(study, self.place, self.plan.fingerprint, address, self.console, verbose=self.verbose)
                stack.enter_context(ray)
                # Ray reads its environment when it is imported: only now that started_ray has set that.
                from puzzle_study.study.ray.runner import sigterm_as_sigint

                received = stack.enter_context(sigterm_as_sigint())
            # Only now: what the machine or the cluster cannot run leaves no begun study behind.
            write_text(self.results.study_file, read.dump(study))
            write_json(self.results.environment_file, account.so_far())
            self.place.publish(finished=False)
            try:
                if ended := self._train():
                    self._attack()
                    self._corrupt()
            except KeyboardInterrupt:
                ended = False
            if not ended:
                write_json(self.results.environment_file, account.so_far())
                self.console.quiet = False  # what to do next is said to everybody
                done = f"{self.plan.finished()} of {self.plan.total} trials"
                self.say(f"interrupted with {done} done; go on with --resume")
                # What the store holds comes back with --resume, and must not forget this run's time.
                self.place.bring(self.results.environment_file)
                return TERMINATED if received else INTERRUPTED
        page = self._report(account)
        return self._close(page, account.seconds())

    def _train(self) -> bool:
        """Run what is left of the trials and write the tables; returns whether all have ended."""
        if self.plan.next() is not None:
            from puzzle_study.study.ray.runner import run_trials

            done = self.plan.finished()
            with StageProgress("trials", self.plan.total, done=done, console=self.console) as progress:
                run_trials(self.plan, self.results, progress, self.place, verbose=self.verbose)
            self.place.collect()
        write_tables(self.plan, self.results)
        return self.plan.ended()

    def _attack(self) -> None:
        units, left = attacking.attack_units(self.plan), self._attacks_left()
        if left:
            with StageProgress("attacks", len(units), done=len(units) - left, console=self.console) as progress:
                attacking.run_attack_stage(units, self.file.study, self.results, self.place, progress)
            self.place.collect()

    def _corrupt(self) -> None:
        units, waiting = corrupting.corruption_units(self.plan), corrupting.left(self.plan, self.results)
        if waiting:
            done = len(units) - len(waiting)
            with StageProgress("corruptions", len(units), done=done, console=self.console) as progress:
                corrupting.run_corruption_stage(waiting, self.file.study, self.place, progress)
            self.place.collect()

    def _report(self, account: Account) -> Path:
        """Write the files that are made from records, the page last; returns the page."""
        from puzzle_study.reporting import build_report

        attacking.write_attack_tables(self.plan, self.results)
        corrupting.write_corruption_table(self.plan, self.results)
        winner = self.plan.winner()
        if winner is not None:
            best.write(self.plan, winner, self.results)
            write_gallery(winner[0].trials, winner[1], attacking.example_keys(self.plan), self.results)
        environment = account.finished()
        page = build_report(self.results, environment=environment)
        # Last: a study that is killed while its report is drawn is not finished.
        write_json(self.results.environment_file, environment)
        self.place.publish(finished=True)
        return page

    def _close(self, page: Path, seconds: float) -> int:
        """Print what the study found, and return the exit code."""
        if (line := winner_line(self.plan, seconds)) is not None:
            self.say(line)
        if self.results.optuna_file.exists():
            self.say(f"search: optuna-dashboard {_shown(self.results.optuna_file)}")
        self.console.quiet = False
        self.say(f"report: {_shown(page)}")
        failed = sum(record.status == "failed" for record in self.plan.records.values())
        if failed:
            self.say(f"{failed} trials failed, see trials.csv; --resume tries them again", style="bold red")
            return FAILED
        return 0


def winner_line(plan: Plan, seconds: float) -> str | None:
    """Return the line that names the winner and its test results; None: no configuration can win."""
    winner = plan.winner()
    if winner is None:
        return None
    planned, reading, worth = winner
    records = [plan.records[spec.key] for spec in planned.trials]
    title = DETECTORS[planned.settings.detector].title
    label = f"{title}, {'default' if planned.default else f'number {planned.number}'}"
    return (
        f"winner: {label}, {reading.aggregation}, {_reached(records, reading)} "
        f"(chosen by {chosen_by(plan.study)}, {shown(plan.objectives[0], worth[0])}), in {duration(seconds)}"
    )


def _reached(records: Sequence[Record], reading: Reading) -> str:
    """Return a configuration's test results, and what its test images lack."""
    lacks = lacking([record.tested for record in records])
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
    """Return a path, relative to the current folder if it is below that."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
