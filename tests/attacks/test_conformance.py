"""What every method of the table must keep to, whatever it is attacked with; the table itself drives these tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchattacks
from torch import Tensor

from puzzle_study import config
from puzzle_study.attacks.adapter import Centre
from puzzle_study.attacks.ball import ROUNDING, Ball
from puzzle_study.attacks.methods import METHODS, REFUSED
from puzzle_study.attacks.objectives import Objective
from puzzle_study.attacks.places.base import Place
from puzzle_study.attacks.registry import PLACES
from puzzle_study.attacks.specs import AttackSpec, attack_spec, attack_specs
from puzzle_study.attacks.template import attack_batch
from puzzle_study.detectors.memory import AtOnce
from puzzle_study.errors import UserError

from . import planted
from .planted import attacked

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"
EPSILON = 0.06
AVAILABLE = [
    name for name, one in METHODS.items() if one.torchattacks is None or hasattr(torchattacks, one.torchattacks)
]
ATTACKING = [name for name in AVAILABLE if name != "noise"]


def spec_of(attack: str, method: str, **changes: Any) -> AttackSpec:
    return attack_spec(attack, method, **{"epsilon": EPSILON, "steps": 2, "queries": 6, "seed": 7, **changes})


def test_every_attack_of_torchattacks_has_a_row() -> None:
    listed = {method.torchattacks for method in METHODS.values()} | set(REFUSED)
    assert set(torchattacks.__all__) <= listed
    assert not {method.torchattacks for method in METHODS.values()} & set(REFUSED)


def test_the_settings_offer_every_method_and_every_place() -> None:
    attacks = config.Attacks.model_validate({"methods": list(METHODS), "attacks": list(PLACES)})
    assert {spec.method for spec in attack_specs(attacks)} == set(METHODS)
    assert {spec.attack for spec in attack_specs(attacks)} == set(PLACES)


@pytest.mark.parametrize("attack", PLACES)
def test_a_place_says_what_it_is(attack: str) -> None:
    assert PLACES[attack].name == attack
    assert PLACES[attack].__doc__
    assert f"| `{attack}` | " in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("attack", PLACES)
@pytest.mark.parametrize("method", AVAILABLE)
@pytest.mark.parametrize("channels", [1, 3])
def test_ball_box_and_determinism(channels: int, method: str, attack: str) -> None:
    """With three channels the network works channels-last, and a gradient may come back in that layout."""
    detector = planted.puzzle_detector(count=3, channels=channels)
    x_NCHW, spec = planted.images(5, channels=channels), spec_of(attack, method, target="normal")
    result, again = (attacked(detector, x_NCHW, spec, labels=[*[False] * 2, True, *[False] * 2])[0] for _ in range(2))
    assert result.indices.tolist() == [0, 1, 3, 4]
    assert result.perturbed.dtype == torch.float32
    clean = x_NCHW[result.indices].float() / 255
    ball = Ball(METHODS[method].norm, EPSILON)
    assert ball.contains(result.perturbed, clean).all()
    assert float(result.perturbed.min()) >= 0
    assert float(result.perturbed.max()) <= 1
    assert 0 < result.max_perturbation <= EPSILON + ROUNDING
    assert float(ball.size(result.perturbed, clean).max()) == pytest.approx(result.max_perturbation)
    torch.testing.assert_close(again.scores, result.scores, rtol=0, atol=0)
    torch.testing.assert_close(again.perturbed, result.perturbed, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(result.scores[result.indices], detector(result.perturbed), rtol=1e-5, atol=0)
    assert result.scores[2] == result.clean_scores[2]
    assert "non_finite" not in result.flags
    assert "outside_ball" not in result.flags


@pytest.mark.slow
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("method", ATTACKING)
def test_every_method_moves_the_score_where_it_should(method: str, direction: int) -> None:
    spec = spec_of("attack1", method, target="both", steps=6, queries=200)
    (result,) = attacked(planted.puzzle_detector(count=3), planted.images(4), spec, labels=[direction < 0] * 4)
    assert direction * float((result.scores - result.clean_scores).mean()) > 0
    assert "weaker_than_noise" not in result.flags
    assert "zero_gradient" not in result.flags


class ChannelsLast(torch.nn.Module):
    """A detector that is no Puzzle-AE and lays its images out channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 2, 3)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        last_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        feature_NCHW: Tensor = self.convolution(last_NCHW)
        return feature_NCHW.square().mean((1, 2, 3))


@pytest.mark.parametrize("method", ATTACKING)
def test_every_method_attacks_a_detector_that_works_channels_last(method: str) -> None:
    x_NCHW, spec = planted.images(2, channels=3), spec_of("attack1", method)
    (result,) = attacked(ChannelsLast(), x_NCHW, spec, compare=False)
    assert 0 < result.max_perturbation <= EPSILON + ROUNDING


class Spy(Objective):
    """Counts rows that look like another row's image."""

    def __init__(self, start_RCHW: Tensor) -> None:
        super().__init__(rows=len(start_RCHW), at_once=AtOnce(2))
        self.start_RCHW, self.seen, self.wrong = start_RCHW, 0, 0

    def evaluate(self, x_BCHW: Tensor, row_B: Tensor) -> tuple[Tensor, Tensor]:
        distance_BR = (x_BCHW[:, None].detach() - self.start_RCHW).abs().mean((2, 3, 4))
        near_BR = distance_BR < 2 * EPSILON
        self.seen += int(near_BR.any(1).sum())
        self.wrong += int((near_BR & (torch.arange(self.rows) != row_B[:, None])).sum())
        value_B = x_BCHW.mean((1, 2, 3))
        return value_B, value_B


class Spied(Place):
    """Perturbs images and keeps its spy."""

    def objective(self, x_NCHW: Tensor) -> Spy:
        self.spy = Spy(x_NCHW)
        return self.spy


@pytest.mark.parametrize("method", ATTACKING)
def test_rows_stay_matched_to_their_images(method: str) -> None:
    """Also where some rows are far beyond the threshold, which makes Square and APGD drop rows when called plainly."""
    place = Spied(planted.Linear(), torch.ones(1), AtOnce(2))
    place.centre = Centre(0.5, 1e-3)
    spec = spec_of("attack1", method, queries=40)
    attack_batch(place, planted.images(4).float() / 255, torch.zeros(4), spec, direction=1, seed=1)
    assert place.spy.seen >= 4
    assert place.spy.wrong == 0


def test_an_objective_refuses_rows_it_cannot_tell_apart() -> None:
    spy = Spy(torch.rand(4, 1, 16, 16))
    with pytest.raises(RuntimeError, match="3 rows of 4: it no longer says which row is which"):
        spy.values(torch.rand(3, 1, 16, 16))


@pytest.mark.skipif(hasattr(torchattacks, "SPSA"), reason="this torchattacks has SPSA")
def test_a_missing_method_is_a_sentence() -> None:
    with pytest.raises(UserError, match=rf"spsa is not in torchattacks {torchattacks.__version__}; install"):
        attacked(planted.Linear(), planted.images(2), spec_of("attack1", "spsa"))


def test_specs_come_in_a_fixed_order_with_what_a_method_uses() -> None:
    methods = ("fgsm", "pgd", "apgd", "square", "noise")
    settings = {"methods": methods, "epsilons": (0.1, 0.2), "steps": 7, "restarts": 3, "queries": 50}
    specs = attack_specs(config.Attacks.model_validate(settings))
    assert [(s.attack, s.method, s.epsilon) for s in specs][:4] == [
        ("attack1", "fgsm", 0.1),
        ("attack1", "fgsm", 0.2),
        ("attack1", "pgd", 0.1),
        ("attack1", "pgd", 0.2),
    ]
    by_method = {s.method: (s.steps, s.step_size, s.restarts) for s in specs}
    assert by_method == {
        "fgsm": (1, 1.0, 1),
        "pgd": (7, 0.5, 3),
        "apgd": (7, 1.0, 3),
        "square": (50, 1.0, 3),
        "noise": (1, 1.0, 3),
    }
