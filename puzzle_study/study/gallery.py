"""The gallery: the winner's best and worst normal and anomalous images with their puzzles and reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from puzzle_study import datasets
from puzzle_study.detectors.puzzle_ae import detector, puzzles
from puzzle_study.detectors.puzzle_ae.detector import to_float
from puzzle_study.results import Results, replacing
from puzzle_study.study.selection import Reading
from puzzle_study.trials.spec import TrialSpec

OF_EACH_KIND = 2
TASKS_SHOWN = 4


def write_gallery(
    trials: Sequence[TrialSpec], reading: Reading, attack_keys: Sequence[str], results: Results, device: torch.device
) -> None:
    """Write gallery.npz for the first tasks of the winner, with the perturbed images that its attacks kept."""
    columns: dict[str, list[Any]] = {}
    for spec in trials[:TASKS_SHOWN]:
        for row in _rows(spec, reading, results, device):
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
    arrays = {name: np.stack(values) for name, values in columns.items()}
    attacked: dict[str, list[np.ndarray]] = {}
    for key in attack_keys:
        path = results.attack_file(key).with_suffix(".npz")
        if path.exists():
            with np.load(path, allow_pickle=False) as archive:
                for name in archive.files:
                    attacked.setdefault(name, []).append(archive[name])
    arrays |= {name: np.concatenate(values) for name, values in attacked.items()}
    with replacing(results.gallery_file) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _rows(spec: TrialSpec, reading: Reading, results: Results, device: torch.device) -> list[dict[str, Any]]:
    """Show each image in the permutation that its reconstruction fails most in."""
    task = datasets.load_task(spec.settings.data, spec.task)
    score = spec.settings.score.model_copy(update={"error": reading.error, "aggregation": reading.aggregation})
    detector = detector.load(results.detector(spec.key), device=device).with_score(score)
    errors = torch.from_numpy(results.errors(spec.key)["test"]).to(device)
    score_N = detector.scores(errors).cpu().numpy()
    labels = task.labels.numpy()
    order = np.argsort(score_N, kind="stable")
    normal, anomalous = order[~labels[order]], order[labels[order]]
    chosen = {
        "best_normal": normal[:OF_EACH_KIND],
        "worst_normal": normal[::-1][:OF_EACH_KIND],
        "best_anomalous": anomalous[::-1][:OF_EACH_KIND],
        "worst_anomalous": anomalous[:OF_EACH_KIND],
    }
    rows = []
    for kind, indices in chosen.items():
        for index in indices.tolist():
            image = task.test[index]
            padded = puzzles.pad(to_float(image[None].to(device)), detector.grid)
            k = (errors[index] / detector.validation_NK.mean(0)).argmax()[None]
            puzzle = detector.puzzler.shuffle(padded, k)
            with torch.no_grad():
                solved = detector.reconstruct(puzzle)
            height, width = image.shape[-2:]
            rows.append(
                {
                    "original": image.numpy(),
                    "puzzle": _bytes(puzzle, height, width),
                    "reconstruction": _bytes(solved, height, width),
                    "error_map": (solved - padded).square().mean(1)[0, :height, :width].cpu().numpy(),
                    "kind": np.array(kind),
                    "normal_class": np.array(spec.task.normal_class),
                    "true_class": np.array(task.test_classes[index]),
                    "name": np.array(task.test_names[index]),
                    "score": np.array(score_N[index]),
                }
            )
    return rows


def _bytes(x_1CHW: torch.Tensor, height: int, width: int) -> np.ndarray:
    return (x_1CHW[0, :, :height, :width].clamp(0, 1) * 255).round().byte().cpu().numpy()
