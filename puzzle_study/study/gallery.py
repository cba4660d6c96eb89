"""The gallery: the winner's best and worst normal and anomalous images with their puzzles and reconstructions.

If the test has no normal images, validation images take their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from puzzle_study import datasets
from puzzle_study.config import Reading
from puzzle_study.detectors.base import Detector, Viewed, to_float
from puzzle_study.detectors.files import load_detector
from puzzle_study.io import write_arrays
from puzzle_study.results import Results
from puzzle_study.trials.spec import TrialSpec

OF_EACH_KIND = 2
TASKS_SHOWN = 4
GRAY, WHITE = 128, 255
"""Mask values: unknown, and anomalous."""


def write_gallery(trials: Sequence[TrialSpec], reading: Reading, attack_keys: Sequence[str], results: Results) -> None:
    """Write gallery.npz for the winner's first tasks, with the perturbed images that its attacks kept.

    It runs on the CPU: there are only a few images, and the driver may have no GPU.
    """
    rows = [row for spec in trials[:TASKS_SHOWN] for row in _rows(spec, reading, results)]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    if not (arrays["mask"] == WHITE).any():
        del arrays["mask"]
    attacked = []
    for key in attack_keys:
        path = results.attack_file(key).with_suffix(".npz")
        if path.exists():
            with np.load(path, allow_pickle=False) as archive:
                attacked.append(dict(archive))
    for name in attacked[0] if attacked else ():
        arrays[name] = np.concatenate([part[name] for part in attacked])
    write_arrays(results.gallery_file, arrays)


def _rows(spec: TrialSpec, reading: Reading, results: Results) -> list[dict[str, Any]]:
    task = datasets.load_task(spec.settings.data, spec.task)
    detector = load_detector(results.detector(spec.key), device=torch.device("cpu")).read_by(reading)
    matrices = results.errors(spec.key)
    images, matrix = task.test, matrices["test"]
    groups, classes, names = np.where(task.labels, "anomalous", "normal"), task.test_classes, task.test_names
    if "normal" not in groups:
        # Validation images replace the normal test images, so that there is something to see without a test.
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
    return [
        {
            "original": images[index].numpy(),
            **_shown(detector, images[index], errors[index]),
            "mask": _mask(task, index, images[index]),
            "kind": kind,
            "normal_class": spec.task.normal_class,
            "true_class": classes[index],
            "name": names[index],
            "score": score_N[index],
        }
        for kind, indices in chosen.items()
        for index in indices.tolist()
    ]


@torch.no_grad()
def _shown(detector: Detector, image_CHW: torch.Tensor, error_K: torch.Tensor) -> dict[str, np.ndarray]:
    """Return what a detector can show of an image: its worst view, the answer to it, the anomaly map."""
    shown: dict[str, np.ndarray] = {}
    height, width = image_CHW.shape[-2:]
    if isinstance(detector, Viewed):
        prepared = detector.prepare(to_float(image_CHW[None]))
        k = (error_K / detector.validation_NK.mean(0)).argmax()[None]
        view = detector.view(prepared, k)
        shown["puzzle"] = _bytes(view, height, width)
        if (answer := detector.picture(detector.answer(view))) is not None:
            shown["reconstruction"] = _bytes(answer, height, width)
            shown["error_map"] = (answer - prepared).square().mean(1)[0, :height, :width].numpy()
    elif detector.traits.maps:
        shown["error_map"] = detector.maps(image_CHW[None])[1][0].numpy()
    return shown


def _mask(task: datasets.Task, index: int, image_CHW: torch.Tensor) -> np.ndarray:
    """Return the anomaly's place, white on black; gray if it is unknown."""
    normal = index >= len(task.labels) or not task.labels[index]
    known_HW = torch.full(image_CHW.shape[-2:], 0 if normal else -1)
    if task.masks is not None and index < len(task.masks):
        known_HW = task.masks[index]
    return np.choose(known_HW.numpy() + 1, [GRAY, 0, WHITE]).astype(np.uint8)[None]


def _bytes(x_1CHW: torch.Tensor, height: int, width: int) -> np.ndarray:
    return (x_1CHW[0, :, :height, :width].clamp(0, 1) * 255).round().byte().numpy()
