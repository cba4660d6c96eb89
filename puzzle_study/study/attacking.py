"""The attack stage: test-time attacks on finished detectors, one record per detector and attack, spread over Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puzzle_study import config, datasets, metrics
from puzzle_study.attacks import AttackSpec, attack_specs, run_attacks
from puzzle_study.detectors import puzzle_ae
from puzzle_study.devices import default_device
from puzzle_study.results import RECORD_FORMAT, Results, content_key, replacing, write_json
from puzzle_study.study.plan import Plan, Planned
from puzzle_study.study.selection import Reading
from puzzle_study.trial import TrialSpec

EXAMPLES = 4


@dataclass(frozen=True)
class AttackUnit:
    """All methods and ε of one attack on one detector: what is compared with one another for its flags.

    Attributes:
        label: ``winner``, ``default`` or both, joined by ``;``.
        trial: the detector's trial.
        reading: how its errors are read.
        specs: the attacks, all with the same ``attack``.
        max_images: test images attacked at most.
    """

    label: str
    trial: TrialSpec
    reading: Reading
    specs: tuple[AttackSpec, ...]
    max_images: int | None

    @property
    def key(self) -> str:
        """Name of the unit's record."""
        return content_key(
            {
                "format": RECORD_FORMAT,
                "trial": self.trial.key,
                "reading": self.reading.values,
                "specs": [asdict(spec) for spec in self.specs],
                "max_images": self.max_images,
            }
        )


def attack_units(plan: Plan) -> list[AttackUnit]:
    """Return what the study file asks to be attacked; configurations without all of their detectors are left out."""
    attacks = plan.study.attacks
    if attacks is None:
        return []
    chosen: dict[tuple[str, Reading], tuple[Planned, list[str]]] = {}
    default = Reading(plan.study.score.error, plan.study.score.aggregation)
    winner = plan.winner()
    for name in attacks.configurations:
        planned, reading = (winner[0], winner[1]) if name == "winner" and winner else (plan.configurations[0], default)
        if plan.worth(planned) is not None:
            chosen.setdefault((planned.configuration, reading), (planned, []))[1].append(name)
    return [
        AttackUnit(";".join(dict.fromkeys(labels)), trial, reading, tuple(specs), attacks.max_images)
        for (_, reading), (planned, labels) in chosen.items()
        for trial in planned.trials
        for _, specs in groupby(attack_specs(attacks), key=lambda spec: spec.attack)
    ]


def run_unit(unit: AttackUnit, results: Results, device: torch.device) -> dict[str, Any]:
    """Attack one detector and write the unit's record, with a few perturbed images beside it."""
    task = datasets.load_task(unit.trial.settings.data, unit.trial.task)
    score = unit.trial.settings.score.model_copy(
        update={"error": unit.reading.error, "aggregation": unit.reading.aggregation}
    )
    detector = puzzle_ae.load(results.detector(unit.trial.key), device=device).with_score(score)
    index = np.arange(len(task.test))
    if unit.max_images is not None and unit.max_images < len(index):
        index = datasets.stratified(task.test_classes, unit.max_images, seed=0)
    images, labels = task.test[index], task.labels[index]
    validation_scores = detector.scores(detector.validation_NK)
    rows = []
    examples: dict[str, list[Any]] = {name: [] for name in EXAMPLE_FIELDS}
    strongest = max(spec.epsilon for spec in unit.specs)
    for result in run_attacks(detector, images, labels, validation_scores, unit.specs, keep=EXAMPLES):
        clean, attacked = result.clean_scores.cpu().numpy(), result.scores.cpu().numpy()
        evaluation = metrics.evaluate(attacked, labels.numpy())
        rows.append(
            {
                **asdict(result.spec),
                "aggregation": unit.reading.aggregation,
                "error": unit.reading.error,
                "auroc": evaluation.auroc,
                "auroc_low": evaluation.auroc_low,
                "auroc_high": evaluation.auroc_high,
                "auroc_clean": metrics.auroc(clean, labels.numpy()),
                "fpr_at_tpr99": evaluation.fpr_at_tpr99,
                "images": len(result.indices),
                "seconds": result.seconds,
                "max_perturbation": result.max_perturbation,
                "flags": ";".join(result.flags),
            }
        )
        if result.spec.epsilon == strongest:
            _collect(examples, result, images)
    if examples["attacked"]:
        with replacing(results.attack_file(unit.key).with_suffix(".npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **{name: np.stack(values) for name, values in examples.items()})  # type: ignore[arg-type]
    record = {"format": RECORD_FORMAT, "trial": unit.trial.key, "rows": rows}
    write_json(results.attack_file(unit.key), record)
    return record


EXAMPLE_FIELDS = (
    "attacked_original",
    "attacked",
    "attacked_attack",
    "attacked_method",
    "attacked_epsilon",
    "attacked_score_before",
    "attacked_score_after",
)


def _collect(examples: dict[str, list[Any]], result: Any, images: torch.Tensor) -> None:
    for image, index in zip(result.perturbed, result.indices[: len(result.perturbed)].tolist(), strict=True):
        values = (
            images[index].numpy(),
            (image.cpu() * 255).round().byte().numpy(),
            np.array(result.spec.attack),
            np.array(result.spec.method),
            np.array(result.spec.epsilon),
            np.array(float(result.clean_scores[index])),
            np.array(float(result.scores[index])),
        )
        for name, value in zip(EXAMPLE_FIELDS, values, strict=True):
            examples[name].append(value)


def run_attack_stage(
    units: Sequence[AttackUnit], results: Results, resources: config.Resources, done: Callable[[], None]
) -> None:
    """Run the units that have no record yet as Ray tasks; ``done`` is called after each."""
    import ray

    @ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu, max_retries=3)
    def remote(unit: AttackUnit, root: str) -> None:
        torch.set_num_threads(max(1, int(resources.cpu)))
        run_unit(unit, Results(Path(root)), default_device())

    waiting = [remote.remote(unit, str(results.root)) for unit in units if results.attack_record(unit.key) is None]
    while waiting:
        ready, waiting = ray.wait(waiting)
        ray.get(ready)
        done()


def attack_rows(units: Sequence[AttackUnit], results: Results) -> list[dict[str, Any]]:
    """Return the rows of attacks.csv of every unit that has a record."""
    return [
        {
            "configuration": unit.trial.configuration,
            "label": unit.label,
            "trial": unit.trial.key,
            "dataset": unit.trial.task.dataset,
            "normal_class": unit.trial.task.normal_class,
            "seed": unit.trial.seed,
            **{name: value for name, value in row.items() if name != "seed"},
            "attack_seed": row["seed"],
        }
        for unit in units
        for row in (results.attack_record(unit.key) or {"rows": []})["rows"]
    ]
