"""Attacks on the images of a task: clean scores in, scores after every attack and their flags out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from puzzle_study.attacks import flags as flagging
from puzzle_study.attacks.adapter import Centre
from puzzle_study.attacks.ball import ROUNDING, Ball
from puzzle_study.attacks.isolation import child_seed, evaluating
from puzzle_study.attacks.methods import METHODS
from puzzle_study.attacks.places.base import Place, default_at_once, device_of, score_images
from puzzle_study.attacks.registry import PLACES
from puzzle_study.attacks.specs import AttackSpec, measured_as
from puzzle_study.attacks.template import attack_batch, require_methods
from puzzle_study.detectors.base import to_float
from puzzle_study.detectors.memory import AtOnce

DIRECTIONS = (1, -1)
ROUNDED = 32
"""Attacked images of each side that are also scored in 8 bits: they say what rounding takes away."""


@dataclass(frozen=True)
class AttackResult:
    """What one attack did.

    Attributes:
        spec: the attack.
        scores: [N] after it; images that were not attacked keep their clean score.
        clean_scores: [N].
        perturbed: float32 [A, C, H, W] in [0, 1], the attacked images, the first ``keep`` of them.
        indices: int64 [A], which images were attacked; ``perturbed[i]`` belongs to ``indices[i]``.
        max_perturbation: largest max|δ| (root mean square of δ for methods in the L2 ball) that was measured.
        strength: mean change of the attacked images' scores in the direction that the attack wants, in standard
            deviations of the validation scores; what flags compare.
        flags: keys of :data:`puzzle_study.attacks.flags.FLAGS`.
        seconds: how long the attack took, its scoring included.
    """

    spec: AttackSpec
    scores: Tensor
    clean_scores: Tensor
    perturbed: Tensor
    indices: Tensor
    max_perturbation: float
    strength: float
    flags: tuple[str, ...]
    seconds: float


def run_attacks(
    detector: nn.Module,
    images_NCHW: Tensor,
    labels_N: Tensor,
    validation_scores: Tensor,
    specs: Sequence[AttackSpec],
    *,
    progress: Callable[[], None] | None = None,
    at_once: int | None = None,
    keep: int | None = None,
    compare: bool = True,
    clean_scores: Tensor | None = None,
) -> list[AttackResult]:
    """Attack a detector's scores, each attack on its own, and compare them.

    The detector is used in eval mode on its own device and in its own precision; it, its weights' gradients and
    the global random state are left as they were.

    Args:
        detector: module from images [N, C, H, W] in [0, 1] to differentiable scores [N]; attack2 and
            attack2_averaged need a :class:`~puzzle_study.detectors.base.Viewed`.
        images_NCHW: uint8, or floats in [0, 1].
        labels_N: bool, True for anomalies.
        validation_scores: scores of normal images that were held out, from which threshold and scale are taken.
        specs: the attacks.
        progress: called after each attack.
        at_once: views, or images of a module without views, in memory together; None: as many as fit.
            The results do not depend on it. If memory runs out, half as many from then on.
        keep: how many perturbed images each result keeps; None: all.
        compare: whether flags say how attacks compare with each other and with random signs, which are run for
            it; False if the caller compares strengths itself.
        clean_scores: scores of these images [N] that an earlier call with this detector returned; None: to be computed.

    Raises:
        UserError: the detector has no views for attack2 or no gradient, the installed torchattacks lacks a method, or
            memory is too small for one view with its gradient.
        ValueError: images are floats outside [0, 1].
    """
    if images_NCHW.dtype != torch.uint8 and images_NCHW.numel():
        low, high = float(images_NCHW.min()), float(images_NCHW.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images must be uint8 or floats in [0, 1], got floats from {low:g} to {high:g}")
    require_methods(detector, specs)
    at_once_now = AtOnce(at_once or default_at_once(detector))
    runner = _Runner(detector, images_NCHW, labels_N.cpu().bool(), validation_scores, at_once_now, keep)
    found, controls = [], []
    # The caller may work under no_grad or inference_mode.
    with torch.inference_mode(False), torch.enable_grad(), evaluating(detector):
        runner.clean_N = runner.clean_scores() if clean_scores is None else clean_scores
        for spec in specs:
            if compare:
                controls.append(runner.noise(flagging.control(spec)).strength)
            found.append(runner.run(spec))
            if progress is not None:
                progress()
    if not compare:
        return found
    flags = flagging.compared([(one.spec, one.strength, one.flags) for one in found], controls)
    return [replace(one, flags=more) for one, more in zip(found, flags, strict=True)]


@dataclass
class _Runner:
    """The state of :func:`run_attacks`: clean scores and controls are computed once."""

    detector: nn.Module
    images_NCHW: Tensor
    labels_N: Tensor
    validation_scores: Tensor
    at_once: AtOnce
    keep: int | None

    def __post_init__(self) -> None:
        self.device = device_of(self.detector)
        self.scale = Centre.of(self.validation_scores).scale
        self.noises: dict[AttackSpec, AttackResult] = {}
        self.clean_N = torch.empty(0)

    def clean_scores(self) -> Tensor:
        """Score the clean images, in batches of the size that attacks have."""
        if not len(self.images_NCHW):
            return torch.empty(0)
        size = self._place("attack1").batch_size(self.images_NCHW[0])
        scores = [
            score_images(self.detector, to_float(part.to(self.device)), at_once=self.at_once)
            for part in torch.split(self.images_NCHW, size)
        ]
        return torch.cat(scores).cpu()

    def noise(self, spec: AttackSpec) -> AttackResult:
        """Return what random signs do; equal specs are computed once."""
        if spec not in self.noises:
            self.noises[spec] = self._attack(spec)
        return self.noises[spec]

    def run(self, spec: AttackSpec) -> AttackResult:
        """Run one attack."""
        if spec.method != "noise":
            return self._attack(spec)
        return replace(self.noise(measured_as(spec)), spec=spec)

    def _place(self, attack: str) -> Place:
        return PLACES[attack](self.detector, self.validation_scores, self.at_once)

    def _attack(self, spec: AttackSpec) -> AttackResult:
        begin = time.perf_counter()
        place, ball = self._place(spec.attack), Ball(METHODS[spec.method].norm, spec.epsilon)
        score_N, rounded_N = self.clean_N.clone(), self.clean_N.clone()
        rounded_A = {direction: torch.empty(0, dtype=torch.int64) for direction in DIRECTIONS}
        perturbed: dict[int, Tensor] = {}
        largest, overshoot, finite, no_gradient = 0.0, 0.0, True, False
        batches = self._batches(spec.target, place)
        every_A = torch.cat([part for part, _ in batches] or [torch.empty(0, dtype=torch.int64)]).sort().values
        kept = set(every_A[: self.keep].tolist())
        for number, (index_A, direction) in enumerate(batches):
            clean_NCHW = to_float(self.images_NCHW[index_A].to(self.device))
            outcome = attack_batch(
                place,
                clean_NCHW,
                self.clean_N[index_A].to(self.device),
                spec,
                direction=direction,
                seed=child_seed(spec.seed, number),
            )
            score_N[index_A] = outcome.score_N.cpu()
            if (room := ROUNDED - len(rounded_A[direction])) > 0:
                rounded_A[direction] = torch.cat((rounded_A[direction], index_A[:room]))
                rounded_N[index_A[:room]] = place.score(outcome.images_NCHW[:room].mul(255).round().div(255)).cpu()
            largest = max(largest, float(ball.size(outcome.images_NCHW, clean_NCHW).max()))
            overshoot, finite = max(overshoot, outcome.overshoot), finite and outcome.finite
            no_gradient |= bool(outcome.without_gradient_N.any())
            images = zip(index_A.tolist(), outcome.images_NCHW.cpu(), strict=True)
            # A copy: a view would keep the whole batch in memory.
            perturbed.update({index: image.clone() for index, image in images if index in kept})
        seconds = time.perf_counter() - begin
        strength, some_A = self._strength(score_N, every_A), torch.cat(tuple(rounded_A.values()))
        before, after = self._strength(score_N, some_A), self._strength(rounded_N, some_A)
        flags = {
            "zero_gradient": no_gradient,
            "non_finite": not finite,
            "outside_ball": overshoot > ROUNDING,
            "weaker_than_clean": strength < -flagging.TOLERANCE,
            "undone_by_rounding": before > flagging.TOLERANCE and after < before / 2,
        }
        shape = self.images_NCHW.shape[1:]
        return AttackResult(
            spec=spec,
            scores=score_N,
            clean_scores=self.clean_N,
            perturbed=torch.stack([perturbed[i] for i in sorted(kept)]) if kept else torch.empty(0, *shape),
            indices=every_A,
            max_perturbation=largest,
            strength=strength,
            flags=tuple(name for name, raised in flags.items() if raised),
            seconds=seconds,
        )

    def _batches(self, target: str, place: Place) -> list[tuple[Tensor, int]]:
        """Return indices and direction of the batches that a target asks for."""
        batches = []
        for direction, wanted in zip(DIRECTIONS, ("normal", "anomalous"), strict=True):
            if target in (wanted, "both"):
                index_A = (self.labels_N == (wanted == "anomalous")).nonzero().flatten()
                size = place.batch_size(self.images_NCHW[0]) if len(self.images_NCHW) else 1
                batches += [(part, direction) for part in torch.split(index_A, size) if len(part)]
        return batches

    def _strength(self, score_N: Tensor, index_A: Tensor) -> float:
        """Return the mean change towards what the attack wants, in units of the spread of validation scores."""
        if not len(index_A):
            return 0.0
        wanted_A = 1 - 2 * self.labels_N[index_A].double()
        change_A = wanted_A * (score_N[index_A].double() - self.clean_N[index_A].double())
        return float(change_A.nan_to_num(0, 0, 0).mean()) / self.scale
