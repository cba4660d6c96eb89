"""A made-up study on disk: error matrices are drawn, everything else is computed from them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from puzzle_study import config
from puzzle_study.config import forms, read
from puzzle_study.detectors import scoring
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.scoring import AGGREGATIONS
from puzzle_study.results import Results
from puzzle_study.statistics import metrics

OWN = "puzzle_ae"
PERMUTATIONS, IMAGES, EPOCHS = 6, 60, 30


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


def write_study(root: Path, recipe: Recipe = Recipe()) -> Results:
    """Write the files of a study and return its results."""
    results = Results(root)
    generator = np.random.default_rng(0)
    study = _study(recipe)
    results.root.mkdir(parents=True, exist_ok=True)
    results.study_file.write_text(read.dump(study), encoding="utf-8")
    results.environment_file.write_text(json.dumps(_environment(recipe)), encoding="utf-8")
    settings = _settings(recipe, generator)
    rows: list[dict[str, Any]] = []
    matrices: dict[str, dict[str, np.ndarray]] = {}
    for configuration, values in settings.items():
        strength = 1.4 + 2 * float(values.get("train.lambda", 0.2)) + 0.2 * generator.normal()
        strength *= float(values.get("data.train_fraction", 1.0)) ** 0.3
        for normal_class in recipe.classes:
            for seed in recipe.seeds:
                separation = strength + 0.15 * generator.normal() - 0.3 * recipe.classes.index(normal_class)
                if normal_class == recipe.inverted_class:
                    separation = -1.2
                trial = _digits(f"{configuration}{normal_class}{seed}", 12)
                matrices[trial] = _errors(generator, separation, PERMUTATIONS, normal_class)
                rows.append(
                    {
                        "trial": trial,
                        "configuration": configuration,
                        "role": "configuration",
                        "detector": OWN,
                        "normal_class": normal_class,
                        "seed": seed,
                        **values,
                    }
                )
    for name in recipe.references:
        strength = 0.1 if name == "untrained" else recipe.reference_strength
        for normal_class in recipe.classes:
            for seed in recipe.seeds:
                trial = _digits(f"{name}{normal_class}{seed}", 12)
                matrices[trial] = _errors(np.random.default_rng(recipe.classes.index(normal_class)), strength, 1, "0")
                rows.append(
                    {
                        "trial": trial,
                        "configuration": _digits(f"reference {name}", 8),
                        "role": "reference",
                        "detector": name,
                        "normal_class": normal_class,
                        "seed": seed,
                    }
                )
    trials = pd.DataFrame([row | _numbers(row, matrices[row["trial"]], study, generator) for row in rows])
    trials["dataset"], trials["repeat"], trials["status"], trials["error"] = recipe.dataset, 0, "finished", ""
    last = trials.index[trials["configuration"] == list(settings)[-1]][: recipe.failed]
    kept = [
        "trial",
        "configuration",
        "role",
        "detector",
        "dataset",
        "normal_class",
        "repeat",
        "seed",
        "status",
        "error",
    ]
    for index in last:
        trials.loc[index, "status"] = "failed"
        trials.loc[index, "error"] = "<script>alert('loss')</script> became NaN in epoch 3 & the trial stopped"
        for name in trials.columns.difference([*kept, *recipe.axes]):
            trials[name] = trials[name].astype(object)
            trials.loc[index, name] = np.nan
    results.write_table(results.trials_file, trials)
    if recipe.matrices:
        for trial, arrays in matrices.items():
            results.write_errors(trial, arrays)
    summary = _summary(trials, matrices, settings, study, recipe)
    results.write_table(results.summary_file, summary)
    labelled = summary.loc[summary["label"].str.contains("winner"), "configuration"]
    winner = str(labelled.iloc[0]) if len(labelled) else ""
    if recipe.epochs:
        results.write_table(results.epochs_file, _epochs(trials, generator))
    if recipe.attacks:
        results.write_table(results.attacks_file, _attacks(trials, winner, next(iter(settings))))
    if recipe.gallery:
        np.savez_compressed(results.gallery_file, **_gallery(recipe, generator))  # type: ignore[arg-type]
    return results


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
        drawn: dict[str, Any] = {
            "train.lambda": round(float(generator.random()), 4),
            "train.adversary.epsilon": round(float(10 ** generator.uniform(-2, -0.5)), 5),
            "train.adversary.method": ("fgsm", "none")[index % 2],
        }
        if drawn["train.adversary.method"] == "none":
            drawn["train.adversary.epsilon"] = None
        values = {name: drawn[name] for name in recipe.axes if name in drawn}
        values |= {name: levels[index % len(levels)] for name, levels in recipe.levels.items()}
        settings[_digits(f"configuration {index}", 8)] = values if recipe.configurations > 1 else {}
    return settings


def _errors(generator: np.random.Generator, separation: float, k: int, normal_class: str) -> dict[str, np.ndarray]:
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
        "pseudo": draw(30, 0.7 * separation),
        "test": draw(IMAGES, separation * labels),
        "pseudo_kind": kinds,
        "labels": labels,
        "classes": classes,
        "names": np.array([f"t10k/{i:05d}" for i in range(IMAGES)]),
    }


def _scores(arrays: dict[str, np.ndarray], part: str, aggregation: str, error: str) -> np.ndarray:
    error_NK, validation_NK = (torch.from_numpy(arrays[name]) for name in (part, "validation"))
    return np.array(scoring.scores(error_NK, validation_NK, config.Reading(error, aggregation)).tolist())


def _numbers(
    row: dict[str, Any], arrays: dict[str, np.ndarray], study: config.Study, generator: np.random.Generator
) -> dict[str, Any]:
    error = _reading(row["role"], study).error
    numbers: dict[str, Any] = {
        "norm": error,
        "epochs": EPOCHS,
        "seconds": 12.0,
        "train_seconds": 8 + float(generator.random()),
        "score_seconds": 2.0,
        "images_per_second": 900 + 50 * float(generator.random()),
        "images_seen": 50_000,
        "precision": "float32",
        "k": PERMUTATIONS,
        "described": "aabbccdd",
        "val_error": float(arrays["validation"].mean()),
        "n_test": IMAGES,
        "n_anomalies": int(arrays["labels"].sum()),
    }
    for aggregation in AGGREGATIONS:
        scores = _scores(arrays, "test", aggregation, error)
        found = metrics.evaluate(scores, arrays["labels"], resamples=100)
        assert found is not None
        evaluation = asdict(found)
        for name in ("auroc", "average_precision", "fpr_at_tpr95", "fpr_at_tpr99", "fpr_at_tpr995", "inverted"):
            numbers[f"{name}_{aggregation}"] = evaluation[name]
        numbers[f"auroc_{aggregation}_low"] = evaluation["auroc_low"]
        numbers[f"auroc_{aggregation}_high"] = evaluation["auroc_high"]
        numbers[f"selection_{aggregation}"] = _selection(arrays, aggregation, error)
        numbers[f"last20_{aggregation}_mean"] = evaluation["auroc"] - 0.01
        numbers[f"last20_{aggregation}_std"] = 0.004
    if row["role"] == "reference":
        numbers |= {"epochs": 0, "k": 1} | {name: np.nan for name in numbers if name.startswith("last20")}
    return numbers


def _reading(role: str, study: config.Study) -> config.Reading:
    """Return how trials of a role are read by themselves."""
    return study.settings().own.reading if role == "configuration" else config.Reading()


def _selection(arrays: dict[str, np.ndarray], aggregation: str, error: str) -> float:
    parts = [_scores(arrays, part, aggregation, error) for part in ("validation", "pseudo")]
    return metrics.auroc(np.concatenate(parts), np.repeat([False, True], [len(part) for part in parts]))


def _summary(
    trials: pd.DataFrame,
    matrices: dict[str, dict[str, np.ndarray]],
    settings: dict[str, dict[str, Any]],
    study: config.Study,
    recipe: Recipe,
) -> pd.DataFrame:
    rows = []
    expected = len(recipe.classes) * len(recipe.seeds)
    for configuration, group in trials.groupby("configuration", sort=False):
        role, detector = group[["role", "detector"]].iloc[0]
        done = group[group["status"] == "finished"]
        single = _reading(role, study)
        for aggregation in AGGREGATIONS if role == "configuration" else (single.aggregation,):
            for error in recipe.errors if role == "configuration" else (single.error,):
                values = [
                    metrics.auroc(_scores(matrices[t], "test", aggregation, error), matrices[t]["labels"])
                    for t in done["trial"]
                ]
                selection = [_selection(matrices[t], aggregation, error) for t in done["trial"]]
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
                        "auroc_mean": np.mean(values) if values else np.nan,
                        "auroc_std": np.std(values) if values else np.nan,
                        "auroc_low": np.nan,
                        "auroc_high": np.nan,
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
    summary["label"] = ""
    first = next(iter(settings))
    for index, row in summary.iterrows():
        words = []
        if row["rank"] == 1:
            words.append("winner")
        if row["configuration"] == first:
            words.append("default")
        summary.loc[index, "label"] = ";".join(words)
    return summary


def _epochs(trials: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    rows = []
    for _, trial in trials[(trials["role"] == "configuration") & (trials["status"] == "finished")].iterrows():
        for epoch in range(1, EPOCHS + 1):
            progress = 1 - np.exp(-epoch / 8)
            row = {
                "trial": trial["trial"],
                "epoch": epoch,
                "loss_rec": 0.08 * (1 - progress) + 0.01,
                "loss_adv": 0.3,
                "loss_d": 0.6,
                "lr": 1e-3,
            }
            for aggregation in AGGREGATIONS:
                seen = epoch % 5 == 0 or epoch == EPOCHS
                value = 0.5 + (trial[f"auroc_{aggregation}"] - 0.5) * progress + 0.004 * generator.normal()
                row[f"auroc_{aggregation}"] = value if seen else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def _attacks(trials: pd.DataFrame, winner: str, default: str) -> pd.DataFrame:
    rows = []
    slopes = {
        ("attack1", "fgsm"): 2.4,
        ("attack1", "pgd"): 2.5,
        ("attack1", "noise"): 0.7,
        ("attack2", "fgsm"): 0.2,
        ("attack2", "pgd"): 0.25,
        ("attack2", "noise"): 0.1,
    }
    labelled = {winner: "winner", default: "default"} if winner != default else {winner: "winner;default"}
    for configuration, label in labelled.items():
        group = trials[(trials["configuration"] == configuration) & (trials["status"] == "finished")]
        for _, trial in group.iterrows():
            for (attack, method), slope in slopes.items():
                for epsilon in (0.05, 0.1, 0.2):
                    value = float(trial["auroc_max"]) - slope * epsilon
                    rows.append(
                        {
                            "configuration": configuration,
                            "label": label,
                            "trial": trial["trial"],
                            "dataset": trial["dataset"],
                            "normal_class": trial["normal_class"],
                            "seed": trial["seed"],
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
                            "seconds": 1.5,
                            "max_perturbation": epsilon,
                            "flags": "weaker_than_noise" if attack == "attack2" and method != "noise" else "",
                        }
                    )
    return pd.DataFrame(rows)


def _gallery(recipe: Recipe, generator: np.random.Generator) -> dict[str, np.ndarray]:
    kinds = ("best_normal", "worst_normal", "best_anomalous", "worst_anomalous")
    entries = [(kind, name) for name in recipe.classes for kind in kinds]
    channels = 3 if recipe.dataset in ("cifar10", "mvtec", "coil100") else 1
    shape = (len(entries), channels, 16, 16)
    attacked = (len(recipe.classes), channels, 16, 16)
    original = generator.integers(0, 256, size=shape, dtype=np.uint8)
    return {
        "original": original,
        "mask": (original[:, :1] > 200).astype(np.uint8) * 255,
        "puzzle": original[..., ::-1].copy(),
        "reconstruction": original // 2,
        "error_map": generator.random((len(entries), 16, 16)).astype(np.float32) ** 4,
        "kind": np.array([kind for kind, _ in entries]),
        "normal_class": np.array([name for _, name in entries]),
        "true_class": np.array([name if "normal" in kind else "7" for kind, name in entries]),
        "name": np.array([f"t10k/{i:05d}" for i in range(len(entries))]),
        "score": generator.uniform(0.5, 3, size=len(entries)).astype(np.float32),
        "attacked_original": generator.integers(0, 256, size=attacked, dtype=np.uint8),
        "attacked": generator.integers(0, 256, size=attacked, dtype=np.uint8),
        "attacked_attack": np.array(["attack1"] * len(recipe.classes)),
        "attacked_method": np.array(["fgsm"] * len(recipe.classes)),
        "attacked_epsilon": np.full(len(recipe.classes), 0.1),
        "attacked_score_before": np.full(len(recipe.classes), 0.9),
        "attacked_score_after": np.full(len(recipe.classes), 1.4),
    }
