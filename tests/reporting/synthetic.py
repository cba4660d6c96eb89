"""A made-up study on disk: error matrices are drawn, everything else is computed from them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from puzzle_study import config
from puzzle_study.config import forms, read
from puzzle_study.corruptions.registry import CORRUPTIONS
from puzzle_study.detectors import scoring
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.scoring import AGGREGATIONS
from puzzle_study.results import Results
from puzzle_study.statistics import metrics

OWN = "puzzle_ae"
PERMUTATIONS, IMAGES, EPOCHS = 6, 60, 30
FAILED = {
    "status": "failed",
    "error": "<script>alert('loss')</script> became NaN in epoch 3 & the trial stopped",
}
Matrices = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """What the made-up study did."""

    name: str = "made_up"
    dataset: str = "mnist"
    classes: tuple[str, ...] = ("0", "1", "2")
    seeds: tuple[int, ...] = (0, 1)
    configurations: int = 5
    axes: tuple[str, ...] = ("train.lambda", "train.adversary.epsilon", "train.adversary.method")
    references: tuple[str, ...] = ("nearest_neighbour", "pca", "one_class_svm", "untrained")
    reference_strength: float = 2.6
    errors: tuple[str, ...] = ("l2",)
    attacks: bool = True
    corruptions: bool = True
    epochs: bool = True
    gallery: bool = True
    matrices: bool = True
    failed: int = 1
    selection: str = "pseudo_anomalies"
    inverted_class: str | None = None
    levels: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    objectives: tuple[str, ...] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Further sections of the study file."""


SMALL = Recipe(
    classes=("0",),
    seeds=(0,),
    configurations=1,
    references=("pca",),
    attacks=False,
    corruptions=False,
    gallery=False,
    failed=0,
)
"""One training and one reference."""


def write_study(root: Path, recipe: Recipe = Recipe()) -> Results:
    """Write the files of a study and return its results."""
    results = Results(root)
    generator = np.random.default_rng(0)
    study = _study(recipe)
    results.root.mkdir(parents=True, exist_ok=True)
    results.study_file.write_text(read.dump(study), encoding="utf-8")
    results.environment_file.write_text(json.dumps(_environment(recipe)), encoding="utf-8")
    settings = _settings(recipe, generator)
    matrices: dict[str, Matrices] = {}
    rows: list[dict[str, Any]] = []
    for row, arrays in _trials(recipe, settings, generator):
        failed = row["configuration"] == list(settings)[-1] and recipe.failed > sum(
            one["status"] == "failed" for one in rows
        )
        rows.append(row | (FAILED if failed else _numbers(row["role"], arrays, study, generator)))
        matrices[row["trial"]] = arrays
    trials = pd.DataFrame(rows)
    results.write_table(results.trials_file, trials)
    if recipe.matrices:
        for trial, arrays in matrices.items():
            results.write_errors(trial, arrays)
    summary = _summary(trials, matrices, settings, study, recipe)
    results.write_table(results.summary_file, summary)
    if recipe.epochs:
        results.write_table(results.epochs_file, _epochs(trials, generator))
    if recipe.attacks:
        results.write_table(results.attacks_file, _attacks(trials, summary))
    if recipe.corruptions:
        results.write_table(results.corruptions_file, _corruptions(trials, summary))
    if recipe.gallery:
        np.savez_compressed(results.gallery_file, **_gallery(recipe, generator))  # type: ignore[arg-type]
    return results


def _trials(
    recipe: Recipe, settings: dict[str, dict[str, Any]], generator: np.random.Generator
) -> Iterator[tuple[dict[str, Any], Matrices]]:
    """Yield every trial without its numbers, and its error matrices."""

    def row(configuration: str, role: str, detector: str, normal_class: str, seed: int) -> dict[str, Any]:
        return {
            "trial": _digits(f"{configuration}{normal_class}{seed}", 12),
            "configuration": configuration,
            "role": role,
            "detector": detector,
            "dataset": recipe.dataset,
            "normal_class": normal_class,
            "repeat": 0,
            "seed": seed,
            "status": "finished",
            "error": "",
        }

    tasks = list(itertools.product(recipe.classes, recipe.seeds))
    for configuration, values in settings.items():
        strength = 1.4 + 2 * float(values.get("train.lambda", 0.2)) + 0.2 * generator.normal()
        strength *= float(values.get("data.train_fraction", 1.0)) ** 0.3
        for normal_class, seed in tasks:
            separation = strength + 0.15 * generator.normal() - 0.3 * recipe.classes.index(normal_class)
            separation = -1.2 if normal_class == recipe.inverted_class else separation
            arrays = _errors(generator, separation, PERMUTATIONS, normal_class)
            yield row(configuration, "configuration", OWN, normal_class, seed) | values, arrays
    for name, (normal_class, seed) in itertools.product(recipe.references, tasks):
        strength = 0.1 if name == "untrained" else recipe.reference_strength
        arrays = _errors(np.random.default_rng(recipe.classes.index(normal_class)), strength, 1, "0")
        yield row(_digits(f"reference {name}", 8), "reference", name, normal_class, seed), arrays


def _digits(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _study(recipe: Recipe) -> config.Study:
    search = None
    if recipe.configurations > 1:
        space: dict[str, Any] = {
            "train.lambda": {"uniform": (0.0, 1.0)},
            "train.adversary.epsilon": {"log_uniform": (0.01, 0.3)},
            "train.adversary.method": {"choice": ("fgsm", "none")},
            "variant": {"grid": ("PAE", "CPAE", "CPAE-G")},
            "data.train_fraction": {"grid": (0.1, 0.5, 1.0)},
        }
        named = [*recipe.axes, *recipe.levels]
        search = {
            "configurations": recipe.configurations,
            "space": {name: space[name] for name in dict.fromkeys(named)},
            "objectives": recipe.objectives,
        }
    own = {name: recipe.settings[name] for name in forms.section_keys(PuzzleSettings) if name in recipe.settings}
    return config.Study.model_validate(
        {
            "name": recipe.name,
            **{name: value for name, value in recipe.settings.items() if name not in own},
            forms.SEVERAL: {OWN: PuzzleSettings.model_validate(own)},
            "data": {"name": recipe.dataset, **recipe.settings.get("data", {})},
            "seeds": recipe.seeds,
            "selection": recipe.selection,
            "search": search,
            "references": recipe.references,
            "attacks": {} if recipe.attacks else None,
            "corruptions": {} if recipe.corruptions else None,
        }
    )


def _environment(recipe: Recipe) -> dict[str, Any]:
    return {
        "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
        "python": "3.11.9",
        "platform": "Linux-6.1-x86_64",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "hardware": {"cpu": "AMD EPYC", "cores": 2, "memory_gib": 7.7, "gpu": None, "precision": "float32"},
        "seeds": list(recipe.seeds),
        "wall_seconds": 1234.5,
        "started": "2025-01-01T10:00:00+00:00",
        "finished": "2025-01-01T10:20:34+00:00",
        "command": ["python", "-m", "puzzle_study.tune", "studies/x.yaml"],
    }


def _settings(recipe: Recipe, generator: np.random.Generator) -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = {}
    for index in range(recipe.configurations):
        method, epsilon = ("fgsm", "none")[index % 2], round(float(10 ** generator.uniform(-2, -0.5)), 5)
        drawn = {
            "train.lambda": round(float(generator.random()), 4),
            "train.adversary.epsilon": None if method == "none" else epsilon,
            "train.adversary.method": method,
        }
        values = {name: drawn[name] for name in recipe.axes if name in drawn}
        values |= {name: levels[index % len(levels)] for name, levels in recipe.levels.items()}
        settings[_digits(f"configuration {index}", 8)] = values if recipe.configurations > 1 else {}
    return settings


def _errors(generator: np.random.Generator, separation: float, k: int, normal_class: str) -> Matrices:
    labels = np.arange(IMAGES) >= IMAGES // 3
    classes = np.where(labels, [str((int(i) % 8) + 1) for i in range(IMAGES)], normal_class)
    permutation = generator.uniform(0.5, 2, size=k)

    def draw(n: int, shift: np.ndarray | float) -> np.ndarray:
        image = generator.normal(size=(n, 1)) + np.reshape(shift, (-1, 1))
        error_NK = np.exp(0.25 * (image + 0.3 * generator.normal(size=(n, k)))) * 0.01 * permutation
        return np.asarray(error_NK, dtype=np.float32)

    kinds = np.array(["cut_paste", "foreign_piece", "local_noise"])[np.arange(30) % 3]
    return {
        "validation": draw(25, 0.0),
        "earlier": np.empty((0, 25, k), dtype=np.float32),
        "pseudo": draw(30, 0.7 * separation),
        "test": draw(IMAGES, separation * labels),
        "pseudo_kind": kinds,
        "pseudo_severity": np.ones(30, dtype=np.uint8),
        "labels": labels,
        "classes": classes,
        "names": np.array([f"t10k/{i:05d}" for i in range(IMAGES)]),
    }


def _scores(arrays: Matrices, part: str, aggregation: str, error: str) -> np.ndarray:
    error_NK, validation_NK = (torch.from_numpy(arrays[name]) for name in (part, "validation"))
    return np.array(scoring.scores(error_NK, validation_NK, config.Reading(error, aggregation)).tolist())


def _numbers(role: str, arrays: Matrices, study: config.Study, generator: np.random.Generator) -> dict[str, Any]:
    error = _reading(role, study).error
    numbers: dict[str, Any] = {
        "norm": error,
        "epochs": EPOCHS,
        "seconds": 12.0,
        "train_seconds": 8 + float(generator.random()),
        "score_seconds": 2.0,
        "images_per_second": 900 + 50 * float(generator.random()),
        "precision": "float32",
        "val_error": float(arrays["validation"].mean()),
        "n_test": IMAGES,
        "n_anomalies": int(arrays["labels"].sum()),
    }
    for aggregation in AGGREGATIONS:
        found = metrics.evaluate(_scores(arrays, "test", aggregation, error), arrays["labels"], resamples=100)
        assert found is not None
        evaluation = asdict(found)
        for name in ("auroc", "average_precision", "fpr_at_tpr95", "fpr_at_tpr99", "fpr_at_tpr995", "inverted"):
            numbers[f"{name}_{aggregation}"] = evaluation[name]
        numbers[f"auroc_{aggregation}_low"] = evaluation["auroc_low"]
        numbers[f"auroc_{aggregation}_high"] = evaluation["auroc_high"]
        numbers[f"selection_{aggregation}"] = _selection(arrays, aggregation, error)
        numbers[f"last20_{aggregation}_mean"] = evaluation["auroc"] - 0.01
        numbers[f"last20_{aggregation}_std"] = 0.004
    if role == "reference":
        numbers |= {"epochs": 0} | {name: np.nan for name in numbers if name.startswith("last20")}
    return numbers


def _reading(role: str, study: config.Study) -> config.Reading:
    """Return how trials of a role are read by themselves."""
    return study.settings().own.reading if role == "configuration" else config.Reading()


def _selection(arrays: Matrices, aggregation: str, error: str) -> float:
    parts = [_scores(arrays, part, aggregation, error) for part in ("validation", "pseudo")]
    validation, pseudo = parts
    aurocs = []
    for kind in np.unique(arrays["pseudo_kind"]):
        spoiled = pseudo[arrays["pseudo_kind"] == kind]
        labels = np.repeat([False, True], [len(validation), len(spoiled)])
        aurocs.append(metrics.auroc(np.concatenate((validation, spoiled)), labels))
    return float(np.mean(aurocs))


def _summary(
    trials: pd.DataFrame,
    matrices: dict[str, Matrices],
    settings: dict[str, dict[str, Any]],
    study: config.Study,
    recipe: Recipe,
) -> pd.DataFrame:
    rows = []
    expected = len(recipe.classes) * len(recipe.seeds)
    for configuration, group in trials.groupby("configuration", sort=False):
        role, detector = group[["role", "detector"]].iloc[0]
        done = [matrices[trial] for trial in group[group["status"] == "finished"]["trial"]]
        single = _reading(role, study)
        readings = [(single.aggregation, single.error)]
        if role == "configuration":
            readings = list(itertools.product(AGGREGATIONS, recipe.errors))
        for aggregation, error in readings:
            values = [metrics.auroc(_scores(own, "test", aggregation, error), own["labels"]) for own in done]
            selection = [_selection(own, aggregation, error) for own in done]
            rows.append(
                {
                    "configuration": configuration,
                    "role": role,
                    "detector": detector,
                    "aggregation": aggregation,
                    "error": error,
                    **settings.get(str(configuration), {}),
                    "trials": len(done),
                    "expected": expected,
                    "complete": len(done) == expected,
                    "number": list(settings).index(str(configuration)) if role == "configuration" else None,
                    "auroc_mean": np.mean(values) if values else np.nan,
                    "selection_mean": np.mean(selection) if values else np.nan,
                    "selection": recipe.selection,
                    # One detector had maps under one reading.
                    "pixel_auroc": 0.912 if (role, aggregation) == ("configuration", "max") else np.nan,
                    "aupro": 0.634 if (role, aggregation) == ("configuration", "max") else np.nan,
                }
            )
    summary = pd.DataFrame(rows)
    ranked = summary[(summary["role"] == "configuration") & summary["complete"]]
    by = "auroc_mean" if recipe.selection == "oracle" else "selection_mean"
    summary["rank"] = ranked[by].rank(ascending=False, method="first")
    labels = {"winner": summary["rank"] == 1, "default": summary["configuration"] == next(iter(settings))}
    summary["label"] = [";".join(itertools.compress(labels, own)) for own in zip(*labels.values(), strict=True)]
    return summary


def _epochs(trials: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    rows = []
    for _, trial in trials[(trials["role"] == "configuration") & (trials["status"] == "finished")].iterrows():
        for epoch in range(1, EPOCHS + 1):
            progress = 1 - np.exp(-epoch / 8)
            losses = {"loss_rec": 0.08 * (1 - progress) + 0.01, "loss_adv": 0.3, "loss_d": 0.6}
            row = {"trial": trial["trial"], "epoch": epoch, **losses, "lr": 1e-3}
            for aggregation in AGGREGATIONS:
                seen = epoch % 5 == 0 or epoch == EPOCHS
                value = 0.5 + (trial[f"auroc_{aggregation}"] - 0.5) * progress + 0.004 * generator.normal()
                row[f"auroc_{aggregation}"] = value if seen else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def _corruptions(trials: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Return what shifts and dim lamps do to the winner, the default and the references, by their severity."""
    labels = summary.groupby("configuration", sort=False)["label"].agg(lambda own: max(own, key=len))
    finished = trials[trials["status"] == "finished"]
    rows = []
    for configuration, label in labels.items():
        own = finished[finished["configuration"] == configuration]
        if own.empty or (not label and own["role"].iloc[0] != "reference"):
            continue
        reading = "max" if label else "avg"
        for (_, trial), (corruption, severity) in itertools.product(
            own.iterrows(), [("none", 0), *itertools.product(("shift", "dim_lamp"), (1, 3, 5))]
        ):
            alarms = 0.05 + 0.15 * severity * (corruption == "shift")
            caught = 0.8 - 0.15 * severity * (corruption == "dim_lamp")
            auroc = float(trial[f"auroc_{reading}"]) - 0.05 * severity
            kind = CORRUPTIONS.get(corruption)
            shares = {"auroc": auroc, "flagged_normal": alarms, "flagged_anomalous": caught}
            rows.append(
                {
                    "configuration": configuration,
                    "label": label or "reference",
                    **trial[["trial", "dataset", "normal_class", "seed", "detector"]],
                    "aggregation": reading,
                    "error": trial["norm"],
                    "corruption": corruption,
                    "severity": severity,
                    "value": kind.value(severity, 28) if kind else None,
                    "unit": kind.unit if kind else "",
                    **{
                        f"{name}{end}": value + change
                        for name, value in shares.items()
                        for end, change in (("", 0.0), ("_low", -0.02), ("_high", 0.02))
                    },
                    "n_normal": 20,
                    "n_anomalous": 40,
                    "note": "",
                }
            )
    return pd.DataFrame(rows)


def _attacks(trials: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Return attacks on the winner and the default, by how much of the AUROC an ε takes."""
    slopes = {
        ("attack1", "fgsm"): 2.4,
        ("attack1", "pgd"): 2.5,
        ("attack1", "noise"): 0.7,
        ("attack2", "fgsm"): 0.2,
        ("attack2", "pgd"): 0.25,
        ("attack2", "noise"): 0.1,
    }
    labels = summary.groupby("configuration", sort=False)["label"].agg(lambda own: max(own, key=len))
    finished = trials[trials["status"] == "finished"]
    rows = []
    for configuration, label in labels[labels != ""].items():
        for (_, trial), ((attack, method), slope), epsilon in itertools.product(
            finished[finished["configuration"] == configuration].iterrows(), slopes.items(), (0.05, 0.1, 0.2)
        ):
            value = float(trial["auroc_max"]) - slope * epsilon
            rows.append(
                {
                    "configuration": configuration,
                    "label": label,
                    **trial[["trial", "dataset", "normal_class", "seed"]],
                    "attack": attack,
                    "method": method,
                    "epsilon": epsilon,
                    "steps": 10 if method == "pgd" else 1,
                    "target": "normal",
                    "aggregation": "max",
                    "error": "l2",
                    "auroc": max(0.0, value),
                    "auroc_clean": trial["auroc_max"],
                    "auroc_low": value - 0.05,
                    "auroc_high": value + 0.05,
                    "fpr_at_tpr99": 0.6,
                    "images": 60,
                    "max_perturbation": epsilon,
                    "flags": "weaker_than_noise" if attack == "attack2" and method != "noise" else "",
                }
            )
    return pd.DataFrame(rows)


def _gallery(recipe: Recipe, generator: np.random.Generator) -> dict[str, np.ndarray]:
    kinds = ("best_normal", "worst_normal", "best_anomalous", "worst_anomalous")
    entries = list(itertools.product(recipe.classes, kinds))
    channels, classes = 3 if recipe.dataset in ("cifar10", "mvtec", "coil100") else 1, len(recipe.classes)

    def images(count: int) -> np.ndarray:
        return generator.integers(0, 256, size=(count, channels, 16, 16), dtype=np.uint8)

    original = images(len(entries))
    return {
        "original": original,
        "mask": (original[:, :1] > 200).astype(np.uint8) * 255,
        "puzzle": original[..., ::-1].copy(),
        "reconstruction": original // 2,
        "error_map": generator.random((len(entries), 16, 16)).astype(np.float32) ** 4,
        "kind": np.array([kind for _, kind in entries]),
        "normal_class": np.array([name for name, _ in entries]),
        "true_class": np.array([name if "normal" in kind else "7" for name, kind in entries]),
        "score": generator.uniform(0.5, 3, size=len(entries)).astype(np.float32),
        "attacked_original": images(classes),
        "attacked": images(classes),
        "attacked_attack": np.array(["attack1"] * classes),
        "attacked_method": np.array(["fgsm"] * classes),
        "attacked_epsilon": np.full(classes, 0.1),
        "attacked_score_before": np.full(classes, 0.9),
        "attacked_score_after": np.full(classes, 1.4),
    }
