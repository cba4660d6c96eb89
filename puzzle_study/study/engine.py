"""A study from its file to its report; every stage continues from what an earlier run left."""

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
from puzzle_study.criteria.registry import CRITERIA
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE
from puzzle_study.io import write_json, write_text
from puzzle_study.results import Results
from puzzle_study.study import attacking, best, choosing, corrupting, space
from puzzle_study.study.changes import compare
from puzzle_study.study.disk import cannot_write
from puzzle_study.study.environment import Account
from puzzle_study.study.gallery import write_gallery
from puzzle_study.study.plan import Plan
from puzzle_study.study.planned import Best
from puzzle_study.study.progress import StageProgress, duration
from puzzle_study.study.ray.cluster import started_ray
from puzzle_study.study.ray.loggers import check_loggers
from puzzle_study.study.storage import Place
from puzzle_study.study.tables import write_tables
from puzzle_study.trials.record import Record
from puzzle_study.trials.worth import chosen_by, lacking, require_labels, shown, trial_value

FAILED, TERMINATED = 1, 143


def make_plan(file: read.StudyFile, results: Results) -> Plan:
    """Return the plan of a study, which reads finished records as trials are requested.

    Raises:
        UserError: images are missing or damaged, a class does not exist, or the selection needs missing test labels.
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
    """Run a study, or the rest of it.

    Args:
        file: the study file.
        folder: parent folder of ``<name>/`` with the results.
        resume: continue an interrupted study.
        console: for progress and the closing lines.
        address: a running Ray cluster, ``auto`` or HOST:PORT; None: start Ray on this machine.
        verbose: also print the trials' logs and Ray's messages.

    Returns:
        The exit code: 0 all done, 1 trials failed, 130 or 143 interrupted.

    Raises:
        UserError: the study cannot be run as requested, or its folder cannot be written; finished results stay intact.
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
            # Not earlier: a finished or refused study changes no file.
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
        """Return whether the study is finished and every file made from its records exists."""
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
        """Return how many attack units have no record."""
        units = attacking.attack_units(self.plan)
        return sum(self.results.attack_record(unit.key) is None for unit in units)

    def _made(self) -> list[Path]:
        """Return the files made from a study's records."""
        results, attacks, winner = self.results, self.file.study.attacks, self.plan.winner()
        made = [results.trials_file, results.epochs_file, results.summary_file, results.selection_file]
        made += [results.attacks_file]
        made += [results.matrix_file] if attacks is not None and attacks.matrix else []
        made += [results.transfer_file] if attacks is not None and attacks.transfer else []
        made += [results.corruptions_file] if self.file.study.corruptions is not None else []
        made += [results.smallest_file] if attacks is not None and attacks.smallest else []
        made += [results.certified_file] if attacks is not None and attacks.certify is not None else []
        if winner is not None:
            made += [*best.files(self.plan, results), results.gallery_file]
        return [*made, results.report_file]

    def go(self, address: str | None) -> int:
        """Run the rest and return the exit code."""
        study, account = self.file.study, Account(self.file.study, self.results, together=self.plan.fusing.together)
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
                # Ray reads its environment on import, so import it after started_ray has set it.
                from puzzle_study.study.ray.runner import sigterm_as_sigint

                received = stack.enter_context(sigterm_as_sigint())
            # Not earlier: if the machine or cluster cannot run the study, no started study is left behind.
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
                self.console.quiet = False  # always say what to do next
                done = f"{self.plan.finished()} of {self.plan.total} trials"
                self.say(f"interrupted with {done} done; continue with --resume")
                # --resume downloads the store's files, and must not lose this run's time.
                self.place.bring(self.results.environment_file)
                return TERMINATED if received else INTERRUPTED
        page = self._report(account)
        return self._close(page, account.seconds())

    def _train(self) -> bool:
        """Run the remaining trials and write the tables; returns whether all have ended."""
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
        """Write the files made from records, the page last; returns the page."""
        from puzzle_study.reporting import build_report, write_model_cards

        attacking.write_attack_tables(self.plan, self.results)
        corrupting.write_corruption_table(self.plan, self.results)
        winner = self.plan.winner()
        if winner is not None:
            best.write(self.plan, self.results)
            write_gallery(winner[0].trials, winner[1], attacking.example_keys(self.plan), self.results)
        environment = account.finished()
        if winner is not None:
            write_model_cards(self.results, environment)
        page = build_report(self.results, environment=environment)
        # Last, so that a study killed while drawing its report is not finished.
        write_json(self.results.environment_file, environment)
        self.place.publish(finished=True)
        return page

    def _close(self, page: Path, seconds: float) -> int:
        """Print the study's result, and return the exit code."""
        for line in winner_lines(self.plan, seconds):
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


def winner_lines(plan: Plan, seconds: float) -> list[str]:
    """Return the line that names the winner and its test results, or one for each task; none if nothing can win."""
    winners, blends = plan.winners(), choosing.ensembles(plan)
    if not winners:
        return []
    groups = [("winner", plan.tasks)]
    if plan.study.choose == "per_task":
        groups = [(f"winner for {name}", (task,)) for task, name in choosing.task_names(plan).items()]
    lines = []
    for heading, tasks in groups:
        place = plan.tasks.index(tasks[0])
        won = _blended(plan, blends[place], tasks) if blends else _won(plan, winners[place], tasks)
        lines.append(f"{heading}: {won}")
    return [*lines[:-1], f"{lines[-1]}, in {duration(seconds)}"]


def _won(plan: Plan, best: Best, tasks: Sequence[datasets.TaskSpec]) -> str:
    """Return what won, what it reached on these tasks, and by what it was chosen."""
    planned, reading, _ = best
    records = [plan.records[spec.key] for spec in planned.trials if spec.task in tasks]
    objective = plan.objectives[0]
    worth = fmean(trial_value(record, reading, objective) for record in records)
    by = chosen_by(plan.study) + ("" if CRITERIA[plan.study.selection].compares else f", {shown(objective, worth)}")
    return f"{_label(best)}, {_reached(records, reading)} (chosen by {by})"


def _blended(plan: Plan, used: Sequence[Best], tasks: Sequence[datasets.TaskSpec]) -> str:
    """Return what an ensemble is made of, and what it reached on these tasks."""
    aurocs = [value for task in tasks for value in choosing.ensemble_aurocs(plan, used, task)]
    reached = f", mean test AUROC {100 * fmean(aurocs):.1f} %, n = {len(aurocs)}" if aurocs else ""
    return f"ensemble of {'; '.join(map(_label, used))}{reached}"


def _label(best: Best) -> str:
    planned, reading, _ = best
    default = ", default" if planned.default else ""
    return f"{planned.titled}{default}, {reading.aggregation}"


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
    """Lock the results folder until the process ends, however it ends."""
    results.root.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(results.lock_file, timeout=0):
            yield
    except filelock.Timeout as error:
        raise UserError(f"{_shown(results.root)} is in use by another run; wait for it or use --results") from error


def _shown(path: Path) -> str:
    """Return a path relative to the current folder if it is below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
