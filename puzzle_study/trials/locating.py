"""How well a detector's anomaly maps find the anomalous pixels of the test images that have masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from puzzle_study.config.types import Reading
from puzzle_study.datasets import Task
from puzzle_study.detectors.base import Detector
from puzzle_study.detectors.scoring import READINGS
from puzzle_study.statistics import pixels

COLUMNS = ("pixel_auroc", "aupro")
MOST_PIXELS = 2**26
"""Of all maps that are compared; of more, every second, third, … image is taken."""


def measure_maps(
    detector: Detector, task: Task, readings: Sequence[Reading] = READINGS
) -> dict[Reading, dict[str, float | None]]:
    """Return ``pixel_auroc`` and ``aupro`` under every reading; nothing without maps or masks.

    Args:
        detector: calibrated on the validation images.
        task: images and masks; anomalous images without a mask are left out.
        readings: of the error matrices.
    """
    if task.masks is None or not detector.traits.maps:
        return {}
    known = (task.masks[:, 0, 0] >= 0).nonzero()[:, 0]
    known = known[:: -(-len(known) * task.masks[0].numel() // MOST_PIXELS)]
    images, mask_NHW = task.test[known], (task.masks[known] > 0).numpy()
    found: dict[Reading, dict[str, float | None]] = {}
    for reading in readings:
        if detector.views == 1 and found:
            # One view: every reading ranks the pixels alike.
            found[reading] = next(iter(found.values()))
            continue
        with torch.no_grad():
            map_NHW = detector.read_by(reading).maps(images)[1].cpu().numpy()
        found[reading] = {
            "pixel_auroc": pixels.pixel_auroc(map_NHW, mask_NHW),
            "aupro": pixels.aupro(map_NHW, mask_NHW),
        }
    return found
