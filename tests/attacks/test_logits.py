"""The score as logits: gradients that never vanish, and a naive presentation where they do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from puzzle_study.attacks.adapter import Centre, ScoreLogits
from puzzle_study.attacks.ball import Ball
from puzzle_study.attacks.objectives import WholeScore
from puzzle_study.attacks.specs import attack_spec
from puzzle_study.detectors.memory import AtOnce

from . import planted


def logits_of(score_N: Tensor, *, validation: Tensor, direction: int) -> tuple[Tensor, Tensor]:
    """Return logits of images whose one pixel is their score, and the gradient of label 0's cross-entropy."""

    class Pixel(torch.nn.Module):
        def forward(self, x_NCHW: Tensor) -> Tensor:
            return x_NCHW[:, 0, 0, 0]

    x_NCHW = score_N.reshape(-1, 1, 1, 1).clone().requires_grad_()
    logits = ScoreLogits(
        WholeScore(Pixel(), rows=len(x_NCHW), at_once=AtOnce(2)),
        x_NCHW.detach(),
        ball=Ball("linf", 0.1),
        centre=Centre.of(validation),
        direction=direction,
    )
    out_N2 = logits(x_NCHW)
    loss = F.cross_entropy(out_N2, torch.zeros(len(x_NCHW), dtype=torch.int64), reduction="sum")
    (slope,) = torch.autograd.grad(loss, x_NCHW)
    return out_N2.detach(), slope.flatten()


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_gradients_point_the_right_way_at_every_size_and_distance(size: float, direction: int) -> None:
    validation = size * torch.tensor([0.9, 0.95, 1.0, 1.05, 1.1])
    distance = torch.tensor([-1e4, -100.0, -10.0, -1.0, 0.0, 1.0, 10.0, 100.0, 1e4])
    score_N = size * (1 + distance)
    logits, slope = logits_of(score_N, validation=validation, direction=direction)
    assert (slope * direction > 0).all()
    assert (slope.abs() * size > 1e-12).all()
    loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64), reduction="none")
    assert (direction * loss.diff() > 0).all(), "the loss must tell the images apart"
    assert (logits.argmax(1) == 0).all(), "a label that is lost stops attacks"
    torch.testing.assert_close(logits[:, 0], -logits[:, 1])


def test_a_saturated_softmax_has_no_gradient() -> None:
    """What the adapter avoids: plain logits with a large gain read as robustness."""
    score_N = torch.tensor([0.5, 0.8, 1.0, 1.5, 2.0], requires_grad=True)
    margin_N = 100 * (score_N - 1.1)
    for logits in (torch.stack((-margin_N, margin_N), 1), torch.stack((-margin_N, torch.zeros(5)), 1)):
        loss = F.cross_entropy(logits, torch.zeros(5, dtype=torch.int64), reduction="sum")
        (slope,) = torch.autograd.grad(loss, score_N, retain_graph=True)
        assert (slope == 0).any()
    _, ours = logits_of(score_N.detach(), validation=1.1 + torch.tensor([-0.01, 0.0, 0.01]), direction=1)
    assert (ours > 0).all()


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("method", ["fgsm", "pgdl2", "mifgsm", "apgd"])
def test_attacks_do_not_depend_on_the_size_of_scores(method: str, size: float) -> None:
    """Also where the scores under attack lie hundreds of spreads from the validation scores."""
    x_NCHW = planted.images(3, low=51, high=204)
    spec = attack_spec("attack1", method, epsilon=0.05, steps=5)
    gains = []
    for one in (1.0, size):
        validation = [50.0 * one, 50.1 * one]
        (result,) = planted.attacked(planted.Linear(size=one), x_NCHW, spec, validation=validation)
        assert "zero_gradient" not in result.flags
        gains.append((result.scores - result.clean_scores).double() / one)
    torch.testing.assert_close(gains[0], gains[1], rtol=1e-2, atol=1e-6)
    assert (gains[0] > 0.01).all()


def test_centre() -> None:
    centre = Centre.of(torch.linspace(0, 1, 101))
    assert centre.threshold == pytest.approx(0.95)
    assert centre.scale == pytest.approx(0.2915, abs=1e-3)


@pytest.mark.parametrize(
    ("scores", "scale"), [([3.0], 3.0), ([2.0, 2.0], 2.0), ([0.0, 0.0], 1.0), ([], 1.0), ([float("nan"), 4.0], 4.0)]
)
def test_centre_without_spread(scores: list[float], scale: float) -> None:
    assert Centre.of(torch.tensor(scores)).scale == scale
