"""A threshold set anew by a few normal images, without training: for a new lamp, camera or focus.

Shape legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puzzle_study.detectors.base import Detector
from puzzle_study.errors import UserError
from puzzle_study.inference import streaming
from puzzle_study.inference.calibration import CONFIDENCE, Calibration, fewest_images
from puzzle_study.inference.drift import Appearance
from puzzle_study.inference.progress import Bar


@dataclass(frozen=True)
class Recalibrated:
    """What a recalibration did.

    Attributes:
        rate: false-positive rate that was asked for.
        flagged_before: images above the threshold that the detector had before.
        calibration: scores of the new validation images.
        appearance: how they look.
    """

    rate: float
    flagged_before: int
    calibration: Calibration
    appearance: Appearance

    def __str__(self) -> str:
        """Say what the new threshold promises."""
        count = len(self.calibration)
        return (
            f"threshold set by {count} images, {self.flagged_before} of which the old one flagged; of new normal "
            f"images it flags {100 * self.calibration.expected_rate(self.rate):.2g} % on average, and with "
            f"{100 * CONFIDENCE:g} % confidence at most {100 * self.calibration.highest_rate(self.rate):.2g} %"
        )

    def description(self) -> dict[str, Any]:
        """Return what detector.json records of it."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        about = {"at": now, "images": len(self.calibration), "fpr": self.rate}
        return {"recalibrated": about, "appearance": asdict(self.appearance)}


def recalibrate(detector: Detector, images_NCHW: Tensor, rate: float) -> Recalibrated:
    """Take new validation images: they set the divisors of eq. 6, a detector's own statistics, and the threshold.

    Args:
        detector: calibrated; it is changed.
        images_NCHW: normal images, uint8 or in [0, 1], none of which is a copy of another.
        rate: false-positive rate, in (0, 1).

    Raises:
        UserError: so few images cannot hold the rate, or their scores are not finite or all the same.
    """
    count = len(images_NCHW)
    if rate <= 0 or count < fewest_images(rate):
        more = f"give at least {fewest_images(rate)}, or " if rate > 0 else ""
        raise UserError(
            f"{count} images cannot hold a false-positive rate of {100 * rate:g} %; {more}ask for "
            f"{100 / (count + 1):.3g} % or more"
        )
    before = Calibration.of(detector)
    score_N = detector.scores(detector.error_matrix(images_NCHW)).double()
    if not score_N.isfinite().all() or (count > 1 and bool((score_N == score_N[0]).all())):
        raise UserError(
            f"the detector's scores of these {count} images are all the same or not finite; give different images"
        )
    flagged = int((score_N > before.threshold(rate)).sum())
    detector.calibrate(images_NCHW)
    return Recalibrated(rate, flagged, Calibration.of(detector), Appearance.of(images_NCHW))


def recalibrate_by_files(detector: Detector, paths: Sequence[Path], rate: float, bar: Bar) -> Recalibrated:
    """Do what :func:`recalibrate` does with image files; those that cannot be read are reported and skipped.

    Raises:
        UserError: as :func:`recalibrate`, or the detector reads no image files.
    """
    parts: list[Tensor] = []
    for chunk in streaming.chunks(paths, streaming.sizing(detector)):
        for error in filter(None, chunk.errors):
            bar.say(f"not read: {error}")
        parts.append(chunk.images_NCHW)
        bar.step(len(chunk.paths))
    return recalibrate(detector, torch.cat(parts), rate)
