"""Whether images have drifted from those that a detector was calibrated on: how they look, and how they score.

Shape legend: N images, V validation images, C channels, H and W pixels, S statistics.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor

from puzzle_study.inference.calibration import Calibration, Scores
from puzzle_study.statistics.intervals import holm

LEVEL = 0.001
"""Of all tests of a run together: a line that is checked every day is warned for nothing once in three years."""
LEAST_DISTANCE = 0.25
"""Between two distribution functions: with many images, tiny differences are significant and do not matter."""
LEAST_P = 1e-6
MOST_KEPT = 64
NUMBERS_AT_ONCE = 1 << 20
LOOKS = ("brightness", "contrast", "sharpness")
SCORE, FLAGGED = "score", "share flagged"
Sorted = Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], Field(min_length=1)]


@torch.no_grad()
def looks(images_NCHW: Tensor) -> Tensor:
    """Return brightness, contrast and sharpness of uint8 or [0, 1] images, float32 [N, 3] on the CPU.

    Brightness is the mean over pixels and channels, contrast the standard deviation over pixels of the mean over
    channels, both in units of a pixel in [0, 1]. Sharpness is the mean absolute second difference of neighbouring
    pixels, divided by the contrast, so that a lamp does not move it.
    """
    _, channels, height, width = images_NCHW.shape
    at_once = max(1, NUMBERS_AT_ONCE // (channels * height * width))
    scale = 255 if images_NCHW.dtype == torch.uint8 else 1
    parts = [torch.empty(0, 3, device=images_NCHW.device)]
    for part_NCHW in images_NCHW.split(at_once):
        gray_NHW = part_NCHW[:, 0].float() if channels == 1 else part_NCHW.float().mean(1)
        contrast_N, brightness_N = torch.std_mean(gray_NHW, (1, 2), correction=0)
        across_NHw = torch.add(gray_NHW[:, :, 2:], gray_NHW[:, :, :-2]).sub_(gray_NHW[:, :, 1:-1], alpha=2)
        down_NhW = torch.add(gray_NHW[:, 2:], gray_NHW[:, :-2]).sub_(gray_NHW[:, 1:-1], alpha=2)
        second_N = sum(part.abs_().mean((1, 2)) for part in (across_NHw, down_NhW))
        # Of an image without contrast only rounding is left.
        sharpness_N = second_N / contrast_N.clamp_min(1e-3 * scale)
        parts.append(torch.stack((brightness_N / scale, contrast_N / scale, sharpness_N), 1))
    return torch.cat(parts).cpu()


@checked(frozen=True)
class Appearance:
    """Brightness, contrast and sharpness of validation images, see :func:`looks`: at most 64 of each, in order."""

    brightness: Sorted
    contrast: Sorted
    sharpness: Sorted

    @staticmethod
    def of(images_NCHW: Tensor) -> Appearance:
        """Measure at least one image; of more than 64 the evenly spaced ranks are kept."""
        sorted_VS = np.sort(looks(images_NCHW).numpy(), axis=0)
        rank = np.linspace(0, len(sorted_VS) - 1, min(len(sorted_VS), MOST_KEPT)).round().astype(int)
        return Appearance(*(tuple(float(f"{value:.6g}") for value in column_V) for column_V in sorted_VS[rank].T))

    @staticmethod
    def from_json(content: Any) -> Appearance | None:
        """Return what ``asdict`` made of one, or None.

        Raises:
            TypeError, ValueError: it is something else.
        """
        return None if content is None else Appearance(**content)


@dataclass(frozen=True)
class Change:
    """Something that is different from the validation images.

    Attributes:
        what: one of :data:`LOOKS`, :data:`SCORE` or :data:`FLAGGED`.
        before: its median over validation images; the false-positive rate.
        now: its median over the images; the share.
        p: p-value, corrected for all tests by Holm's method.
    """

    what: str
    before: float
    now: float
    p: float

    def __str__(self) -> str:
        p = f"p {self.p:.1g}" if self.p >= LEAST_P else f"p < {LEAST_P:g}"
        if self.what == FLAGGED:
            return f"{self.what} {100 * self.now:.0f} % instead of {100 * self.before:g} % ({p})"
        times = f"× {self.now / self.before:.2g}, " if self.before > 0 else ""
        return f"{self.what} {self.now:.3g} instead of {self.before:.3g} ({times}{p})"


class Watch:
    """Collects how images look and score, chunk by chunk.

    Args:
        calibration: scores of the validation images.
        appearance: how the validation images look; None for a detector that does not say so.
    """

    def __init__(self, calibration: Calibration, appearance: Appearance | None) -> None:
        self._calibration, self._appearance = calibration, appearance
        self._looks, self._scores = list[npt.NDArray[np.float32]](), list[Scores]()

    def add(self, images_NCHW: Tensor, score_N: Scores) -> None:
        """Take in images, as the detector sees them, and their scores."""
        self._scores.append(score_N)
        if self._appearance is not None:
            self._looks.append(looks(images_NCHW).numpy())

    def changes(self, rate: float) -> list[Change]:
        """Return what has changed, significantly and by much.

        How images look and score is compared by the two-sample test of Kolmogorov and Smirnov. The number of flagged
        images is compared with that among normal images drawn like the validation images, which is beta-binomial.

        Args:
            rate: false-positive rate of the threshold.
        """
        score_N = np.concatenate([np.empty(0), *self._scores])
        if not len(score_N):
            return []
        pairs = [(SCORE, self._calibration.score_V, score_N)]
        if (kept := self._appearance) is not None:
            columns = np.concatenate(self._looks, dtype=np.float64).T
            pairs = [
                (what, np.array(getattr(kept, what)), now) for what, now in zip(LOOKS, columns, strict=True)
            ] + pairs
        flagged = int((score_N > self._calibration.threshold(rate)).sum())
        large = {what for what, before, now in pairs if _may_differ(before, now)}
        large |= {FLAGGED} if flagged > 2 * rate * len(score_N) else set()
        if not large:
            return []
        found = [
            Change(what, float(np.median(was)), float(np.median(now)), _p_value(was, now)) for what, was, now in pairs
        ]
        p = self._p_of_more(flagged, len(score_N), rate)
        found.append(Change(FLAGGED, rate, flagged / len(score_N), p))
        corrected = holm([change.p for change in found])
        changes = [replace(change, p=p) for change, p in zip(found, corrected, strict=True)]
        return [change for change in changes if change.what in large and change.p < LEVEL]

    def _p_of_more(self, flagged: int, images: int, rate: float) -> float:
        """Return the probability that so many normal images, or more, are flagged."""
        from scipy.stats import betabinom

        return float(np.clip(betabinom.sf(flagged - 1, images, *self._calibration.ranks(rate)), 0, 1))


def _may_differ(before_V: Scores, now_N: Scores) -> bool:
    """Whether samples are far enough apart for a test; without SciPy's statistics, which take a second to import."""
    both = np.concatenate((before_V, now_N))
    share_before, share_now = (
        np.searchsorted(np.sort(part), both, side="right") / len(part) for part in (before_V, now_N)
    )
    distance = float(np.abs(share_before - share_now).max())
    size = len(before_V) * len(now_N) / len(both)
    # About the p-value; Wei and Dudley 2012: Two-sample Dvoretzky-Kiefer-Wolfowitz inequalities.
    return distance >= LEAST_DISTANCE and 2 * math.exp(-2 * size * distance**2) < 10 * LEVEL


def _p_value(before_V: Scores, now_N: Scores) -> float:
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        # Of a p-value that is too small for it to be exact.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(ks_2samp(before_V, now_N).pvalue)


def sentence(changes: Sequence[Change], images: int) -> str:
    """Return what has changed about so many images, and what to do about it."""
    listed = "; ".join(map(str, changes))
    # More flagged images, which look as ever, are what anomalies do.
    looks_alike = all(change.what in (SCORE, FLAGGED) and change.now > change.before for change in changes)
    cause = (
        "many of them are anomalies, or something has changed that brightness, contrast and sharpness do not show, "
        "such as the camera's place"
        if looks_alike
        else "lamp, camera or focus have changed, or most of them are anomalies"
    )
    return (
        f"these {images} images differ from the validation images: {listed}; {cause}; if normal images look like this "
        f"now, set the threshold anew with --recalibrate"
    )
