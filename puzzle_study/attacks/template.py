"""One attack on one batch. The attack is not trusted: what it returns is clipped and scored again.

For every method, the returned rows are clipped to the ball and the box. Methods of several steps are watched: the best
row on their way inside the ball is kept if it beats the returned one. Rows become images again, are clipped and scored
once more by the detector itself. Over restarts the best is kept image by image. The clean image is never among the
candidates, so a failed attack shows as a failed attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from puzzle_study.attacks.adapter import ScoreLogits
from puzzle_study.attacks.ball import Ball
from puzzle_study.attacks.isolation import child_seed, seeded
from puzzle_study.attacks.methods import METHODS, SPSA_SAMPLES, Method
from puzzle_study.attacks.places.base import Place
from puzzle_study.attacks.specs import AttackSpec
from puzzle_study.detectors.base import Detector
from puzzle_study.errors import UserError


def require_methods(detector: nn.Module, specs: Sequence[AttackSpec]) -> None:
    """Refuse what cannot be run, before anything is run.

    Raises:
        UserError: the detector lacks the gradients that a method needs, or the installed torchattacks lacks the method.
    """
    import torchattacks

    gradients = not isinstance(detector, Detector) or detector.traits.differentiable
    for spec in specs:
        if METHODS[spec.method].uses_gradient and not gradients:
            raise UserError(
                f"attack method {spec.method} needs gradients and {detector.title} has none; use square or noise"
            )
        name = METHODS[spec.method].torchattacks
        if name is not None and not hasattr(torchattacks, name):
            raise UserError(
                f"attack method {spec.method} is not in torchattacks {torchattacks.__version__}; "
                "install torchattacks 3.5.1 or leave it out of attacks.methods"
            )


@dataclass(frozen=True)
class Outcome:
    """A perturbed batch and what was seen on the way.

    Attributes:
        images_NCHW: in the ball and in [0, 1].
        score_N: their scores; the clean ones if no finite score was found.
        without_gradient_N: images of which a gradient was exactly zero.
        finite: False once a score, a gradient or a returned pixel was not.
        overshoot: by how much the attack itself left the ball, 0 if it did not.
    """

    images_NCHW: Tensor
    score_N: Tensor
    without_gradient_N: Tensor
    finite: bool
    overshoot: float


def attack_batch(
    place: Place, clean_NCHW: Tensor, clean_score_N: Tensor, spec: AttackSpec, *, direction: int, seed: int
) -> Outcome:
    """Attack images [N, C, H, W] in [0, 1] that all go in one direction: 1 raises their score, -1 lowers it."""
    ball = Ball(METHODS[spec.method].norm, spec.epsilon)
    best = Outcome(clean_NCHW, clean_score_N, torch.zeros_like(clean_score_N, dtype=torch.bool), True, 0.0)
    if spec.epsilon == 0:
        return best
    found_N = torch.full_like(clean_score_N, -torch.inf)
    attempt = _noise if spec.method == "noise" else _attempt
    for restart in range(spec.restarts):
        found = attempt(place, clean_NCHW, spec, ball, direction, child_seed(seed, restart))
        reached_N = torch.where(found.score_N.isfinite(), direction * found.score_N, -torch.inf)
        better_N = reached_N > found_N
        found_N = torch.where(better_N, reached_N, found_N)
        best = Outcome(
            torch.where(better_N[:, None, None, None], found.images_NCHW, best.images_NCHW),
            torch.where(better_N, found.score_N, best.score_N),
            best.without_gradient_N | found.without_gradient_N,
            best.finite and found.finite and bool(found.score_N.isfinite().all()),
            max(best.overshoot, found.overshoot),
        )
    return best


def _attempt(place: Place, clean_NCHW: Tensor, spec: AttackSpec, ball: Ball, direction: int, seed: int) -> Outcome:
    """Run a method of torchattacks once."""
    method = METHODS[spec.method]
    start_RCHW = place.rows(clean_NCHW)
    objective = place.objective(clean_NCHW)
    views = spec.permutations_per_step
    estimated = views is not None and objective.draw_views(views, seed)
    logits = ScoreLogits(objective, start_RCHW, ball=ball, centre=place.centre, direction=direction).eval()
    returned_RCHW = _run(method, logits, start_RCHW, spec, ball, seed)
    overshoot = float((ball.size(returned_RCHW, start_RCHW) - ball.epsilon).nan_to_num(0).max())
    row_RCHW = ball.clip(returned_RCHW, start_RCHW)
    if method.iterated:
        rank_R = direction * objective.values(row_RCHW)[1]
        best_rank_R = logits.best_rank_R
        if estimated:
            # Iterates were ranked by some of their views; the best one is held against the last by all.
            known_R = direction * objective.values(logits.best_RCHW)[1]
            best_rank_R = torch.where(best_rank_R.isfinite(), known_R, best_rank_R)
        moved_R = (row_RCHW != start_RCHW).flatten(1).any(1)
        beaten_R = (best_rank_R > rank_R) | (~moved_R & best_rank_R.isfinite()) | ~rank_R.isfinite()
        row_RCHW = torch.where(beaten_R[:, None, None, None], logits.best_RCHW, row_RCHW)
    images_NCHW = ball.clip(place.images(row_RCHW, clean_NCHW), clean_NCHW)
    without_gradient_N = logits.without_gradient_R.reshape(len(clean_NCHW), -1).any(1)
    finite = bool(logits.all_finite & returned_RCHW.isfinite().all())
    return Outcome(images_NCHW, place.score(images_NCHW), without_gradient_N, finite, overshoot)


def _noise(place: Place, clean_NCHW: Tensor, spec: AttackSpec, ball: Ball, direction: int, seed: int) -> Outcome:
    """Add random signs of size ε, whose max and root mean square are both ε: the control in either ball."""
    generator = torch.Generator().manual_seed(seed)
    sign_NCHW = torch.randint(0, 2, clean_NCHW.shape, generator=generator).mul_(2).sub_(1)
    images_NCHW = ball.clip(clean_NCHW + ball.epsilon * sign_NCHW.to(clean_NCHW), clean_NCHW)
    score_N = place.score(images_NCHW)
    return Outcome(images_NCHW, score_N, torch.zeros_like(score_N, dtype=torch.bool), True, 0.0)


def _run(method: Method, logits: ScoreLogits, start_RCHW: Tensor, spec: AttackSpec, ball: Ball, seed: int) -> Tensor:
    """Run one attack of torchattacks and return what it returns."""
    import torchattacks

    radius = ball.radius(start_RCHW)
    fillings = {
        "epsilon": radius,
        "alpha": spec.step_size * radius,
        "steps": spec.steps,
        "iterations": max(1, spec.steps // (2 * SPSA_SAMPLES)),
        "seed": seed % 2**31,
    }
    arguments = {argument: fillings[filling] for argument, filling in method.arguments.items()}
    attack = getattr(torchattacks, str(method.torchattacks))(logits, **arguments, **method.constants)
    label_R = torch.zeros(len(start_RCHW), dtype=torch.int64, device=start_RCHW.device)
    returned: Tensor
    with seeded(seed):
        if method.best_loss:
            returned = attack.perturb(start_RCHW, label_R, best_loss=True)[1]
        else:
            returned = attack(start_RCHW, label_R)
    return returned.detach()
