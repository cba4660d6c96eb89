"""The gallery: the winner's best and worst normal and anomalous images with their puzzles and reconstructions.

If the test has no normal images, validation images take their place.
"""

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


def write_gallery(trials: Sequence[TrialSpec], reading: Reading, attack_keys: Sequence[str], results: Results) -> None:
    """Write gallery.npz for the first tasks of the winner, with the perturbed images that its attacks kept.

    Computed on the CPU: these are a few images, and the machine that draws them holds no GPU.
    """
    columns: dict[str, list[Any]] = {}
    for spec in trials[:TASKS_SHOWN]:
        for row in _rows(spec, reading, results):
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


def _rows(spec: TrialSpec, reading: Reading, results: Results) -> list[dict[str, Any]]:
    """Show each image in the permutation that its reconstruction fails most in."""
    task = datasets.load_task(spec.settings.data, spec.task)
    score = spec.settings.score.model_copy(update={"error": reading.error, "aggregation": reading.aggregation})
    detector = detector.load(results.detector(spec.key), device=torch.device("cpu")).with_score(score)
    matrices = results.errors(spec.key)
    images, matrix = task.test, matrices["test"]
    groups, classes, names = np.where(task.labels, "anomalous", "normal"), task.test_classes, task.test_names
    if "normal" not in groups:
        # Validation images stand for the normal ones, so that there is something to see without a test.
        count = len(task.validation)
        images, matrix = torch.cat((images, task.validation)), np.concatenate((matrix, matrices["validation"]))
        groups = np.concatenate((groups, ["validation"] * count))
        classes += (spec.task.normal_class,) * count
        names += tuple(f"validation/{number}" for number in range(count))
    errors = torch.from_numpy(matrix)
    score_N = detector.scores(errors).numpy()
    order = np.argsort(score_N, kind="stable")
    chosen = {}
    for group in dict.fromkeys(groups.tolist()):
        own = order[groups[order] == group]
        ends = own[:OF_EACH_KIND], own[::-1][:OF_EACH_KIND]
        chosen[f"best_{group}"], chosen[f"worst_{group}"] = ends[::-1] if group == "anomalous" else ends
    rows = []
    for kind, indices in chosen.items():
        for index in indices.tolist():
            image = images[index]
            padded = puzzles.pad(to_float(image[None]), detector.grid)
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
                    "error_map": (solved - padded).square().mean(1)[0, :height, :width].numpy(),
                    "kind": np.array(kind),
                    "normal_class": np.array(spec.task.normal_class),
                    "true_class": np.array(classes[index]),
                    "name": np.array(names[index]),
                    "score": np.array(score_N[index]),
                }
            )
    return rows


def _bytes(x_1CHW: torch.Tensor, height: int, width: int) -> np.ndarray:
    return (x_1CHW[0, :, :height, :width].clamp(0, 1) * 255).round().byte().numpy()
