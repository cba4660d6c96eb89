"""The attack stage: test-time attacks on the finished detectors of chosen configurations, spread over Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import pandas as pd

from puzzle_study import config
from puzzle_study.attacks.flags import compared, control
from puzzle_study.attacks.specs import AttackSpec, attack_specs, fits, measured_as
from puzzle_study.config import Reading
from puzzle_study.detectors.devices import claim_cpus, granted_device
from puzzle_study.detectors.memory import first_line, is_out_of_memory
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study.attack_units import MatrixUnit, MethodUnit, TransferUnit, Unit
from puzzle_study.study.nodes import places
from puzzle_study.study.plan import Plan
from puzzle_study.study.planned import Planned
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.storage import Place
from puzzle_study.trials.run import check_images
from puzzle_study.trials.spec import TrialSpec

RETRIES = 3
WAIT_SECONDS = 1.0
"""How long the time left may stand still while no unit ends."""


@dataclass(frozen=True)
class Victim:
    """A configuration that is attacked under one reading; labels are ``winner`` and ``default``, joined by ``;``."""

    label: str
    trials: tuple[TrialSpec, ...]
    reading: Reading

    @property
    def configuration(self) -> str:
        return self.trials[0].configuration


def victims(plan: Plan) -> list[Victim]:
    """Return what the study file asks to be attacked, each configuration once under each of its readings.

    Configurations without all of their detectors are left out.
    """
    attacks = plan.study.attacks
    if attacks is None:
        return []
    best = [(planned, reading) for planned, reading, _ in plan.ranked()]
    winner = [(planned.configuration, reading) for planned, reading in best[:1]]
    asked: list[tuple[Planned, Reading]] = []
    for name in attacks.configurations:
        if name == "winner":
            asked += best[:1]
        else:
            those = [planned for planned in plan.configurations if planned.default or name == "all"]
            asked += [(planned, _own_reading(planned)) for planned in those if planned.worth is not None]
    asked += best[: attacks.top or 0]
    found: dict[tuple[str, Reading], Victim] = {}
    for planned, reading in asked:
        key = planned.configuration, reading
        labels = ["winner"] * (key in winner) + ["default"] * (planned.default and reading == _own_reading(planned))
        found.setdefault(key, Victim(";".join(labels), planned.trials, reading))
    return list(found.values())


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
    """Run the units that have no record yet in Ray actors, each of which keeps its process and its share of a GPU.

    Raises:
        UserError: an attack cannot be run on these images, memory is too small, a detector is missing or
            damaged, or a node has other images.
        OSError: a record could not be written.
    """
    import ray
    from ray.exceptions import RayTaskError

    resources = study.resources
    occupied: dict[str, Any] = {"num_cpus": resources.cpu, "num_gpus": resources.gpu}
    attacker: Any = ray.remote(**occupied, max_restarts=-1, max_task_retries=RETRIES)(_Attacker)
    waiting = deque(unit for unit in units if results.attack_record(unit.key) is None)
    running: dict[Any, Any] = {}
    free: list[Any] = []
    while running or waiting:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        at_once = min(study.max_concurrent or len(units), max(1, places(resources, nodes)))
        while waiting and len(running) < at_once:
            actor = free.pop() if free else attacker.remote(place, resources, study.data)
            running[actor.run.remote(waiting.popleft())] = actor
        free.clear()  # an actor ends with its last reference, and another may wait for its resources
        ended, _ = ray.wait(list(running), timeout=WAIT_SECONDS)
        progress.tick()
        if not ended:
            continue
        (ready,) = ended
        free.append(running.pop(ready))
        try:
            ray.get(ready)
        except RayTaskError as error:
            if isinstance(error.cause, (UserError, OSError)):
                raise error.cause from None
            if is_out_of_memory(error.cause):
                raise UserError(
                    f"an attack does not fit the memory ({first_line(error.cause)}); lower attacks.max_images, or run "
                    f"fewer at once (resources, max_concurrent)"
                ) from None
            raise
        progress.advance()


class _Attacker:
    """What runs units one after the other in a process of its own, so that only the first waits for PyTorch and a GPU.

    A Ray task that holds a GPU ends its process. If told to keep it, Ray may give the process another GPU later, and
    PyTorch would stay on the first.
    """

    def __init__(self, place: Place, resources: config.Resources, images: config.Data) -> None:
        self._place, self._resources, self._images = place, resources, images

    def run(self, unit: Unit) -> None:
        claim_cpus(self._resources.cpu)
        check_images(self._images, unit.trial.fingerprint)
        with self._place.unit() as results:
            unit.run(results, granted_device(self._resources.gpu))


def write_attack_tables(plan: Plan, results: Results) -> None:
    """Write attacks.csv, and aggregation_matrix.csv and transfer.csv if the study asks for them, from records."""
    attacks, attacked = plan.study.attacks, victims(plan)
    tables = {results.attacks_file: attack_rows(plan, results)}
    if attacks is not None and attacks.matrix:
        tables[results.matrix_file] = [
            _about(victim, unit.trial) | row
            for victim, unit in _matrix_units(attacks, attacked)
            for row in _rows(results, unit)
        ]
    if attacks is not None and attacks.transfer:
        tables[results.transfer_file] = _transfer_rows(attacks, attacked, results)
    for path in (results.attacks_file, results.matrix_file, results.transfer_file):
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
            rows += [_about(victim, trial) | row for row in _flagged(_fitting(attacks, trial), measured)]
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
    """Return the attacks of a study that a detector can be attacked by."""
    traits = DETECTORS[trial.detector].traits
    return [spec for spec in attack_specs(attacks) if fits(spec, traits)]


def _method_units(attacks: config.Attacks, victim: Victim, trial: TrialSpec) -> list[MethodUnit]:
    """Return what is run on a detector: every method of every attack that fits it, and random signs once."""
    specs = _fitting(attacks, trial)
    once = dict.fromkeys([*map(measured_as, specs), *map(control, specs)])
    return [
        MethodUnit(trial, victim.reading, tuple(group), attacks.max_images)
        for _, group in groupby(once, key=lambda spec: (spec.attack, spec.method, spec.restarts))
    ]


def _strongest(attacks: config.Attacks, trial: TrialSpec) -> AttackSpec | None:
    """Return the attack of matrix and transfer: attack1 by the first fitting method besides noise, at the largest ε."""
    one = attacks.model_copy(update={"attacks": ("attack1",), "epsilons": (max(attacks.epsilons),)})
    return next((spec for spec in _fitting(one, trial) if spec.method != "noise"), None)


def _matrix_units(attacks: config.Attacks, attacked: Sequence[Victim]) -> list[tuple[Victim, MatrixUnit]]:
    """Return the units of the matrix, one for each detector and error norm, with the victim that they are about."""
    groups: dict[tuple[str, str], list[Victim]] = {}
    for victim in attacked if attacks.matrix else ():
        if victim.trials[0].settings.own.FREE:
            groups.setdefault((victim.configuration, victim.reading.error), []).append(victim)
    found = []
    for same in groups.values():
        labels = dict.fromkeys(name for victim in same for name in victim.label.split(";") if name)
        whole = replace(same[0], label=";".join(labels))
        found += [
            (whole, MatrixUnit(trial, whole.reading, (spec,), attacks.max_images))
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
            found.append((source, judges, TransferUnit(trial, source.reading, (spec,), attacks.max_images, targets)))
    return found


def _transfer_rows(attacks: config.Attacks, attacked: Sequence[Victim], results: Results) -> list[dict[str, Any]]:
    return [
        {
            "source_configuration": source.configuration,
            "source_label": source.label,
            "source_trial": unit.trial.key,
            "source_aggregation": source.reading.aggregation,
            "source_error": source.reading.error,
            **_about(judge, trial),
            **row,
        }
        for source, judges, unit in _transfer_units(attacks, attacked)
        for judge, (trial, _), row in zip(judges, unit.targets, _rows(results, unit), strict=False)
        if row
    ]


def _counterpart(victim: Victim, trial: TrialSpec) -> TrialSpec:
    return next(other for other in victim.trials if (other.task, other.seed) == (trial.task, trial.seed))


def _about(victim: Victim, trial: TrialSpec) -> dict[str, Any]:
    return {
        "configuration": victim.configuration,
        "label": victim.label,
        "trial": trial.key,
        "dataset": trial.task.dataset,
        "normal_class": trial.task.normal_class,
        "seed": trial.seed,
    }


def _rows(results: Results, unit: Unit) -> list[dict[str, Any]]:
    return list((results.attack_record(unit.key) or {"rows": []})["rows"])
