"""The attack stage: test-time attacks on the finished detectors of chosen configurations, spread over Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import pandas as pd

from puzzle_study import config
from puzzle_study.attacks.convergence import to_check
from puzzle_study.attacks.flags import compared, control
from puzzle_study.attacks.specs import AttackSpec, fitting, measured_as, strongest
from puzzle_study.attacks.table import checked
from puzzle_study.config import Reading
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.results import Results
from puzzle_study.study.attack_checks import CertifyUnit, ConvergenceUnit, SmallestUnit
from puzzle_study.study.attack_units import MatrixUnit, MethodUnit, TransferUnit, Unit
from puzzle_study.study.plan import Plan
from puzzle_study.study.planned import Planned
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.stage import run_units
from puzzle_study.study.storage import Place
from puzzle_study.trials.spec import TrialSpec

REFERENCE = "reference"


@dataclass(frozen=True)
class Victim:
    """A configuration that is attacked or corrupted under one reading.

    Labels are ``winner`` and ``default``, joined by ``;``, or ``reference``.
    """

    label: str
    trials: tuple[TrialSpec, ...]
    reading: Reading

    @property
    def configuration(self) -> str:
        return self.trials[0].configuration

    @property
    def is_reference(self) -> bool:
        return self.label == REFERENCE


def victims(plan: Plan) -> list[Victim]:
    """Return what the study file asks to be attacked, each configuration once under each of its readings."""
    return asked_for(plan, plan.study.attacks)


def asked_for(plan: Plan, section: config.Attacks | config.Corruptions | None) -> list[Victim]:
    """Return the detectors that a section of the study file names, each configuration once under each reading.

    Configurations and references without all of their detectors are left out.
    """
    if section is None:
        return []
    best = [(planned, reading) for planned, reading, _ in plan.ranked()]
    winner = [(planned.configuration, reading) for planned, reading in best[:1]]
    asked: list[tuple[Planned, Reading]] = []
    for name in section.configurations:
        if name == "winner":
            asked += best[:1]
        elif name in ("default", "all"):
            those = [planned for planned in plan.configurations if planned.default or name == "all"]
            asked += [(planned, _own_reading(planned)) for planned in those if planned.worth is not None]
    asked += best[: section.top or 0]
    found: dict[tuple[str, Reading], Victim] = {}
    for planned, reading in asked:
        key = planned.configuration, reading
        labels = ["winner"] * (key in winner) + ["default"] * (planned.default and reading == _own_reading(planned))
        found.setdefault(key, Victim(";".join(labels), planned.trials, reading))
    return [*found.values(), *(_references(plan) if "references" in section.configurations else ())]


def _references(plan: Plan) -> list[Victim]:
    """Return the references whose trials are all finished, each with its own reading."""
    found = []
    for name in dict.fromkeys(spec.detector for spec in plan.references):
        trials = tuple(spec for spec in plan.references if spec.detector == name)
        if all((record := plan.records.get(spec.key)) is not None and record.finished for spec in trials):
            found.append(Victim(REFERENCE, trials, trials[0].settings.own.reading))
    return found


def _own_reading(planned: Planned) -> Reading:
    return planned.settings.own.reading


def attack_units(plan: Plan) -> list[Unit]:
    """Return what there is to run, each thing once."""
    attacks, attacked = plan.study.attacks, victims(plan)
    if attacks is None:
        return []
    units: list[Unit] = [
        unit for victim in attacked for trial in victim.trials for unit in _method_units(attacks, victim, trial)
    ]
    for victim in attacked:
        for trial in victim.trials:
            units += _convergence_units(attacks, victim, trial)
    units += [unit for _, unit in _smallest_units(attacks, attacked)]
    units += [unit for _, unit in _certify_units(attacks, attacked)]
    units += [unit for _, unit in _matrix_units(attacks, attacked)]
    units += [unit for _, _, unit in _transfer_units(attacks, attacked)]
    return list({unit.key: unit for unit in units}.values())


def example_keys(plan: Plan) -> list[str]:
    """Return the records of the winner's attacks, beside which perturbed images lie."""
    attacks, attacked = plan.study.attacks, victims(plan)
    return [
        unit.key
        for victim in attacked
        if attacks is not None and "winner" in victim.label
        for trial in victim.trials
        for unit in _method_units(attacks, victim, trial)
    ]


def run_attack_stage(
    units: Sequence[Unit], study: config.Study, results: Results, place: Place, progress: StageProgress
) -> None:
    """Run the units that have no record yet; raises what :func:`run_units` raises."""
    waiting = [unit for unit in units if results.attack_record(unit.key) is None]
    run_units(waiting, study, place, progress, section="attacks")


def write_attack_tables(plan: Plan, results: Results) -> None:
    """Write attacks.csv, and the other tables of attacks that the study asks for, from records."""
    attacks, attacked = plan.study.attacks, victims(plan)
    tables = {results.attacks_file: attack_rows(plan, results)}
    if attacks is not None and attacks.matrix:
        tables[results.matrix_file] = _unit_rows(_matrix_units(attacks, attacked), results)
    if attacks is not None and attacks.transfer:
        tables[results.transfer_file] = _transfer_rows(attacks, attacked, results)
    if attacks is not None and attacks.smallest:
        tables[results.smallest_file] = _unit_rows(_smallest_units(attacks, attacked), results)
    if attacks is not None and attacks.certify is not None:
        tables[results.certified_file] = _unit_rows(_certify_units(attacks, attacked), results)
    for path in results.attack_tables:
        if path in tables:
            results.write_table(path, pd.DataFrame(tables[path]))
        else:
            path.unlink(missing_ok=True)


def attack_rows(plan: Plan, results: Results) -> list[dict[str, Any]]:
    """Return the rows of attacks.csv of everything that has a record, with the flags that compare records."""
    attacks = plan.study.attacks
    rows: list[dict[str, Any]] = []
    if attacks is None:
        return rows
    for victim in victims(plan):
        for trial in victim.trials:
            measured = {
                spec: row
                for unit in _method_units(attacks, victim, trial)
                for spec, row in zip(unit.specs, _rows(results, unit), strict=False)
            }
            for unit in _convergence_units(attacks, victim, trial):
                for spec, columns in zip(unit.specs, _rows(results, unit), strict=False):
                    if spec in measured:
                        measured[spec] = checked(measured[spec], columns)
            rows += [about(victim, trial) | row for row in _flagged(_fitting(attacks, trial), measured)]
    return rows


def _flagged(specs: Sequence[AttackSpec], measured: Mapping[AttackSpec, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the row of each spec that was measured, with the flags that follow from the others' strengths."""
    there = [spec for spec in dict.fromkeys(specs) if measured_as(spec) in measured and control(spec) in measured]
    found = [measured[measured_as(spec)] for spec in there]
    flags = compared(
        [(spec, row["strength"], row["flags"].split(";")) for spec, row in zip(there, found, strict=True)],
        [measured[control(spec)]["strength"] for spec in there],
    )
    for spec, row, names in zip(there, found, flags, strict=True):
        yield {**row, "attack": spec.attack, "flags": ";".join(names)}


def _fitting(attacks: config.Attacks, trial: TrialSpec) -> list[AttackSpec]:
    """Return the attacks of a study that a trial's detector can be attacked by."""
    return fitting(attacks, DETECTORS[trial.detector].traits)


def _method_units(attacks: config.Attacks, victim: Victim, trial: TrialSpec) -> list[MethodUnit]:
    """Return what is run on a detector: every method of every attack that fits it, and random signs once."""
    specs = _fitting(attacks, trial)
    once = dict.fromkeys([*map(measured_as, specs), *map(control, specs)])
    return [
        MethodUnit(
            trial, victim.reading, tuple(group), attacks.max_images, balanced=attacks.balanced, keep=attacks.keep
        )
        for _, group in groupby(once, key=lambda spec: (spec.attack, spec.method, spec.restarts))
    ]


def _strongest(attacks: config.Attacks, trial: TrialSpec) -> AttackSpec | None:
    """Return the attack of matrix, transfer and the smallest ε."""
    return strongest(attacks, DETECTORS[trial.detector].traits)


def _convergence_units(attacks: config.Attacks, victim: Victim, trial: TrialSpec) -> list[ConvergenceUnit]:
    """Return what holds a detector's attacks to stronger runs, if there is something to hold."""
    specs = tuple(to_check(_fitting(attacks, trial))) if attacks.convergence else ()
    chosen: dict[str, Any] = {"balanced": attacks.balanced, "count": attacks.convergence}
    return [ConvergenceUnit(trial, victim.reading, specs, attacks.max_images, **chosen)] if specs else []


def _smallest_units(attacks: config.Attacks, attacked: Sequence[Victim]) -> list[tuple[Victim, SmallestUnit]]:
    """Return the units that look for the smallest ε, with the victim that they are about."""
    return [
        (victim, SmallestUnit(trial, victim.reading, (spec,), attacks.max_images, balanced=attacks.balanced))
        for victim in (attacked if attacks.smallest else ())
        for trial in victim.trials
        if (spec := _strongest(attacks, trial)) is not None
    ]


def _certify_units(attacks: config.Attacks, attacked: Sequence[Victim]) -> list[tuple[Victim, CertifyUnit]]:
    """Return the units that certify, with the victim that they are about."""
    if attacks.certify is None:
        return []
    chosen: dict[str, Any] = {"settings": attacks.certify, "target": attacks.target, "seed": attacks.seed}
    return [
        (
            victim,
            CertifyUnit(trial, victim.reading, (), attacks.max_images, balanced=attacks.balanced, **chosen),
        )
        for victim in attacked
        for trial in victim.trials
    ]


def _matrix_units(attacks: config.Attacks, attacked: Sequence[Victim]) -> list[tuple[Victim, MatrixUnit]]:
    """Return the units of the matrix, one for each detector and error norm, with the victim that they are about."""
    groups: dict[tuple[str, str], list[Victim]] = {}
    for victim in attacked if attacks.matrix else ():
        if victim.trials[0].settings.own.FREE and not victim.is_reference:
            groups.setdefault((victim.configuration, victim.reading.error), []).append(victim)
    found = []
    for same in groups.values():
        labels = dict.fromkeys(name for victim in same for name in victim.label.split(";") if name)
        whole = replace(same[0], label=";".join(labels))
        found += [
            (whole, MatrixUnit(trial, whole.reading, (spec,), attacks.max_images, balanced=attacks.balanced))
            for trial in whole.trials
            if (spec := _strongest(attacks, trial)) is not None
        ]
    return found


def _transfer_units(
    attacks: config.Attacks, attacked: Sequence[Victim]
) -> list[tuple[Victim, list[Victim], TransferUnit]]:
    """Return the units of transfer, each with the attacked victim and those that score, itself among them."""
    if not attacks.transfer or len({victim.configuration for victim in attacked}) < 2:
        return []
    found = []
    for source in attacked:
        judges = [victim for victim in attacked if victim is source or victim.configuration != source.configuration]
        for trial in source.trials:
            if (spec := _strongest(attacks, trial)) is None:
                continue
            targets = tuple((_counterpart(victim, trial), victim.reading) for victim in judges)
            unit = TransferUnit(trial, source.reading, (spec,), attacks.max_images, targets, balanced=attacks.balanced)
            found.append((source, judges, unit))
    return found


def _transfer_rows(attacks: config.Attacks, attacked: Sequence[Victim], results: Results) -> list[dict[str, Any]]:
    return [
        {
            "source_configuration": source.configuration,
            "source_label": source.label,
            "source_trial": unit.trial.key,
            "source_aggregation": source.reading.aggregation,
            "source_error": source.reading.error,
            **about(judge, trial),
            **row,
        }
        for source, judges, unit in _transfer_units(attacks, attacked)
        for judge, (trial, _), row in zip(judges, unit.targets, _rows(results, unit), strict=False)
        if row
    ]


def _counterpart(victim: Victim, trial: TrialSpec) -> TrialSpec:
    """Return the victim's trial of the same task, and of the same seed unless it is a reference, which has one."""
    same = [other for other in victim.trials if other.task == trial.task]
    return next((other for other in same if other.seed == trial.seed), same[0])


def about(victim: Victim, trial: TrialSpec) -> dict[str, Any]:
    """Return the columns that say which detector a row is about."""
    return {
        "configuration": victim.configuration,
        "label": victim.label,
        "trial": trial.key,
        "dataset": trial.task.dataset,
        "normal_class": trial.task.normal_class,
        "seed": trial.seed,
    }


def _unit_rows(units: Sequence[tuple[Victim, Unit]], results: Results) -> list[dict[str, Any]]:
    """Return the rows of units, each with what it is about."""
    return [about(victim, unit.trial) | row for victim, unit in units for row in _rows(results, unit)]


def _rows(results: Results, unit: Unit) -> list[dict[str, Any]]:
    return list((results.attack_record(unit.key) or {"rows": []})["rows"])
