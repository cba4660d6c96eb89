"""Corruptions at the end of a training, so that a search can use them as objectives, without test labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from puzzle_study import config
from puzzle_study.config import Reading
from puzzle_study.corruptions.corrupt import corrupt
from puzzle_study.datasets import Task
from puzzle_study.detectors import scoring
from puzzle_study.detectors.base import Detector
from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE, Calibration
from puzzle_study.statistics import metrics


def measure_corrupted(
    detector: Detector,
    task: Task,
    pseudo_NCHW: Tensor,
    corrupted: config.Corrupted,
    readings: Sequence[Reading] = scoring.READINGS,
) -> dict[Reading, dict[str, float]]:
    """Corrupt validation images and pseudo-anomalies alike, and score them under every reading.

    Args:
        detector: calibrated on the validation images.
        task: its validation images are used.
        pseudo_NCHW: pseudo-anomalies made of validation images, uint8.
        corrupted: which corruptions.
        readings: of the error matrices.

    Returns:
        Two shares in [0, 1], each a mean over the corruptions: ``corrupted_selection``, the AUROC of corrupted
        validation images against corrupted pseudo-anomalies; ``corrupted_fpr``, the share of corrupted validation
        images above the threshold that the clean ones gave.
    """
    held_out = _spread(task.validation, corrupted.max_images).to(detector.device)
    pseudo = _spread(pseudo_NCHW, corrupted.max_images).to(detector.device)
    labels_N = np.repeat([False, True], [len(held_out), len(pseudo)])
    matrices = [
        detector.error_matrix(torch.cat([corrupt(images, kind, corrupted.severity) for images in (held_out, pseudo)]))
        for kind in corrupted.kinds
    ]
    found = {}
    for reading in readings:
        read = detector.read_by(reading)
        threshold = Calibration.of(read).threshold(FALSE_POSITIVE_RATE)
        scores = [read.scores(matrix).double().cpu().numpy() for matrix in matrices]
        found[reading] = {
            "corrupted_selection": float(np.mean([metrics.auroc(score_N, labels_N) for score_N in scores])),
            "corrupted_fpr": float(np.mean([score_N[~labels_N] > threshold for score_N in scores])),
        }
    return found


def _spread(images_NCHW: Tensor, most: int) -> Tensor:
    """Return at most so many images, evenly over all: pseudo-anomalies stand in the order of their kinds."""
    count = min(most, len(images_NCHW))
    return images_NCHW[torch.linspace(0, len(images_NCHW) - 1, count).round().long()]
