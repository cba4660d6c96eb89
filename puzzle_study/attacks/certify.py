"""Certified robustness of any detector's score: median smoothing (Chiang et al. 2020, arXiv 2007.03730).

The smoothed score of an image x is the median of f(x + G) for Gaussian noise G of deviation σ. Whatever δ with ‖δ‖₂ ≤ r
is added to x, it stays between the Φ(-r/σ) and the Φ(r/σ) quantile of f(x + G). Those quantiles are bounded by order
statistics of n samples. No attack can do better, so that what follows from the bounds is certified: an AUROC and the
shares of images above the threshold.

Confidence: the bounds of all N images at one radius hold together with a probability of at least 1 - α over the draws
of the noise; each is given α/N. A radius that n samples cannot reach has infinite bounds, and certifies nothing.

Shape legend: N images, V validation images, S samples of noise, C channels, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

from puzzle_study.attacks.isolation import child_seed, evaluating
from puzzle_study.attacks.places.base import default_at_once, device_of, score_images
from puzzle_study.detectors.base import to_float
from puzzle_study.detectors.memory import AtOnce
from puzzle_study.inference.calibration import flagged_shares
from puzzle_study.statistics import metrics

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""In units of σ: beyond 2σ the quantiles lie so far out that thousands of samples do not reach them."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Certificate:
    """What no perturbation with ‖δ‖₂ ≤ ``radius`` can undercut, with confidence 1 - α.

    Attributes:
        radius: r, in pixels in [0, 1].
        auroc: lower bound of the AUROC; NaN if the images are all normal or all anomalous.
        flagged_normal: upper bound of the share of normal images above the threshold; None without such images.
        flagged_anomalous: lower bound of the share of anomalous images above it.
    """

    radius: float
    auroc: float
    flagged_normal: float | None
    flagged_anomalous: float | None


@dataclass(frozen=True)
class Smoothed:
    """The smoothed score on a test set: ``auroc`` as estimated without a perturbation, and what is certified of it."""

    auroc: float
    certificates: tuple[Certificate, ...]


def certify(
    detector: nn.Module,
    images_NCHW: Tensor,
    labels_N: Tensor,
    validation_VCHW: Tensor,
    *,
    sigma: float,
    samples: int,
    alpha: float,
    target: str = "both",
    seed: int = 0,
) -> Smoothed:
    """Certify a detector's smoothed score at each of the radii.

    Args:
        detector: module from images in [0, 1] to scores [N]; noised images are clipped before it sees them, which is
            part of the score that is smoothed.
        images_NCHW: uint8, or floats in [0, 1].
        labels_N: bool, True for anomalies.
        validation_VCHW: normal images that were held out, whose smoothed scores give the threshold for a
            false-positive rate of 5 %.
        sigma: σ, deviation of the noise, in pixels in [0, 1].
        samples: S, noised copies of each image.
        alpha: α, probability that some bound at a radius does not hold.
        target: whose images are perturbed, ``normal``, ``anomalous`` or ``both``.
        seed: of the noise; the same images get the same noise for every detector.
    """
    label_N = labels_N.cpu().numpy().astype(bool)
    score_NS = noised_scores(detector, images_NCHW, sigma=sigma, samples=samples, seed=child_seed(seed, 0))
    held_out_VS = noised_scores(detector, validation_VCHW, sigma=sigma, samples=samples, seed=child_seed(seed, 1))
    validation_V, median_N = np.median(held_out_VS, axis=1), np.median(score_NS, axis=1)
    attacked_N = np.where(label_N, target != "normal", target != "anomalous")
    each = alpha / max(len(label_N), 1)
    certificates = []
    for radius in (sigma * factor for factor in RADII):
        worst_N = np.empty(len(label_N))
        for anomalous in (False, True):
            for attacked in (False, True):
                these_N = (label_N == anomalous) & (attacked_N == attacked)
                worst_N[these_N] = bound(
                    score_NS[these_N], radius if attacked else 0.0, sigma=sigma, alpha=each, upper=not anomalous
                )
        shares = flagged_shares(validation_V, worst_N, label_N)
        certificates.append(
            Certificate(radius, _auroc(worst_N, label_N), shares["flagged_normal"], shares["flagged_anomalous"])
        )
    return Smoothed(_auroc(median_N, label_N), tuple(certificates))


def bound(score_NS: Floats, radius: float, *, sigma: float, alpha: float, upper: bool) -> Floats:
    """Return a bound of the median of each image's scores under any perturbation with ‖δ‖₂ ≤ ``radius``, shape [N].

    The k-th lowest sample is at least the Φ(r/σ) quantile unless k or more samples lie below it, whose number is
    binomial. The lower bound is the same from the other end.

    Args:
        score_NS: scores of noised copies, in ascending order along S.
        radius: r; 0 bounds the median itself.
        sigma: σ of the noise.
        alpha: probability that the bound of one image does not hold.
        upper: whether the bound is from above; else from below.
    """
    count = score_NS.shape[1]
    quantile = float(norm.cdf(radius / sigma))
    below_K = binom.cdf(np.arange(count), count, quantile)
    k = int(np.searchsorted(below_K, 1 - alpha))
    if k >= count:
        return np.full(len(score_NS), np.inf if upper else -np.inf)
    return score_NS[:, k] if upper else score_NS[:, count - 1 - k]


def noised_scores(detector: nn.Module, images_NCHW: Tensor, *, sigma: float, samples: int, seed: int) -> Floats:
    """Return scores of noised copies of each image in ascending order, [N, S]."""
    device, at_once = device_of(detector), AtOnce(default_at_once(detector))
    score_NS = torch.empty(len(images_NCHW), samples, device=device)
    with torch.no_grad(), evaluating(detector):
        for number, image_CHW in enumerate(to_float(images_NCHW)):
            generator = torch.Generator().manual_seed(child_seed(seed, number))
            noise_SCHW = torch.randn((samples, *image_CHW.shape), generator=generator).mul_(sigma)
            noised_SCHW = noise_SCHW.add_(image_CHW).clamp_(0, 1).to(device)
            score_NS[number] = score_images(detector, noised_SCHW, at_once=at_once)
    return np.sort(score_NS.double().cpu().numpy(), axis=1)


def _auroc(score_N: Floats, label_N: npt.NDArray[np.bool_]) -> float:
    """Return the AUROC of scores that may be infinite; NaN if it cannot be had."""
    if np.isnan(score_N).any() or metrics.lacking(len(label_N), int(label_N.sum())):
        return float("nan")
    # Ranks order as the scores do, and are finite.
    return metrics.auroc(np.unique(score_N, return_inverse=True)[1].astype(np.float64), label_N)
