"""Robustness at the end of a training, so that a search can use it as an objective.

It is one small attack on every trained detector; the attack stage measures attacks in full on a few configurations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from puzzle_study import config
from puzzle_study.attacks.running import run_attacks
from puzzle_study.attacks.specs import attack_spec
from puzzle_study.config import Reading
from puzzle_study.criteria.pseudo_anomalies import selection
from puzzle_study.datasets import Task
from puzzle_study.datasets.subset import chosen_of_each_side
from puzzle_study.detectors import scoring
from puzzle_study.detectors.base import Detector
from puzzle_study.statistics import metrics


def measure_robustness(
    detector: Detector,
    task: Task,
    errors: dict[str, np.ndarray],
    kinds: Sequence[str],
    robust: config.Robust,
    readings: Sequence[Reading] = scoring.READINGS,
) -> dict[Reading, dict[str, float]]:
    """Attack normal images upwards by attack1, under every reading.

    Args:
        detector: calibrated on the validation images.
        task: images and labels.
        errors: clean error matrices ``validation``, ``pseudo`` and ``test``.
        kinds: the kind of each pseudo-anomaly.
        robust: the attack.
        readings: of the error matrices.

    Returns:
        Two AUROCs in [0, 1], each on at most ``robust.max_images`` attacked images: ``robust_auroc`` of attacked normal
        test images against clean anomalies, left out if the test lacks one of them; ``robust_selection`` of attacked
        validation images against clean pseudo-anomalies, mean over their kinds, without labels.
    """
    spec = attack_spec("attack1", robust.method, epsilon=robust.epsilon, steps=robust.steps)
    tested, test_labels = chosen_of_each_side(task, robust.max_images)
    held_out = task.validation[: robust.max_images]
    images = torch.cat((tested, held_out))
    labels = torch.cat((test_labels.bool(), torch.zeros(len(held_out), dtype=torch.bool)))
    validation_NK, pseudo_NK = torch.from_numpy(errors["validation"]), torch.from_numpy(errors["pseudo"])
    found: dict[Reading, dict[str, float]] = {}
    for reading in readings:
        clean, pseudo = (scoring.scores(matrix, validation_NK, reading) for matrix in (validation_NK, pseudo_NK))
        (attacked,) = run_attacks(detector.read_by(reading), images, labels, clean, [spec], keep=0, compare=False)
        test, validation = attacked.scores.split([len(tested), len(held_out)])
        found[reading] = {"robust_selection": selection(validation.numpy(), pseudo.numpy(), kinds)}
        if not metrics.lacking(len(test_labels), int(test_labels.sum())):
            found[reading]["robust_auroc"] = metrics.auroc(test.numpy(), test_labels.numpy())
    return found
