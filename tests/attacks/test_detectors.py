"""What an attack may ask of each detector of the registry; a new entry is attacked here without a line of test code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from puzzle_study.attacks.ball import Ball
from puzzle_study.attacks.methods import METHODS
from puzzle_study.attacks.registry import PLACES
from puzzle_study.attacks.specs import attack_spec, fits
from puzzle_study.config import Reading, read
from puzzle_study.detectors.base import Shape, Traits
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study import attacking
from puzzle_study.study.engine import make_plan
from puzzle_study.trials import run
from puzzle_study.trials.record import records
from tests.detectors.mean_image import MeanImage
from tests.detectors.test_conformance import SIDE, kept, normal

from . import planted
from .planted import EPSILON, attacked

pytestmark = pytest.mark.slow

TRIED = ("fgsm", "pgd", "pgdl2", "square", "noise")


# No pixel at an end of [0, 1], none equal to that of a training image: there a distance has no slope.
IMAGES = normal(3, seed=3) // 2 + planted.images(3, low=30, high=50)


@pytest.mark.parametrize("attack", PLACES)
@pytest.mark.parametrize("name", DETECTORS)
def test_what_fits_a_detector_stays_in_the_ball_and_moves_scores_no_less_than_noise(name: str, attack: str) -> None:
    detector = kept(name)
    specs = [attack_spec(attack, method, epsilon=EPSILON, steps=3, queries=20) for method in TRIED]
    specs = [spec for spec in specs if fits(spec, detector.traits)]
    for result in attacked(detector, IMAGES, *specs):
        assert Ball(METHODS[result.spec.method].norm, EPSILON).contains(result.perturbed, IMAGES / 255).all()
        assert result.max_perturbation > 0
        # Only attack1 pushes the very score; the others may move it the wrong way.
        if METHODS[result.spec.method].uses_gradient and attack == "attack1":
            assert result.strength > 0
            assert not {"weaker_than_noise", "zero_gradient"} & set(result.flags), result.spec


class Stepped(MeanImage):
    """A detector without gradients."""

    title = "stepped"
    traits = Traits(differentiable=False)


def test_a_gradient_method_on_a_detector_without_gradients_is_a_sentence() -> None:
    detector = Stepped(2.0, shape=Shape(1, SIDE, SIDE), reading=Reading())
    for method in METHODS:
        spec = attack_spec("attack1", method, epsilon=EPSILON)
        assert fits(spec, detector.traits) != METHODS[method].uses_gradient
        if METHODS[method].uses_gradient:
            with pytest.raises(UserError, match=f"{method} needs gradients and stepped has none; use square or noise"):
                attacked(detector, IMAGES, spec)
    specs = [attack_spec("attack1", method, epsilon=EPSILON) for method in ("square", "noise")]
    square, noise = attacked(detector, IMAGES, *specs)
    assert square.strength > noise.strength


@pytest.mark.parametrize("attack", [name for name, place in PLACES.items() if place.needs_views])
@pytest.mark.parametrize("name", [name for name, kind in DETECTORS.items() if not kind.traits.views])
def test_an_attack_on_views_that_a_detector_has_not_is_a_sentence(name: str, attack: str) -> None:
    spec = attack_spec(attack, "fgsm", epsilon=EPSILON)
    assert not fits(spec, DETECTORS[name].traits)
    with pytest.raises(UserError, match=f"{attack} perturbs views and {DETECTORS[name].title} has none; give"):
        attacked(kept(name), IMAGES, spec)


STUDY = """
name: mixed
detectors: {nearest_neighbour: {}, pca: {}}
data: {name: digits, normal_classes: [3], max_train_images: 40, max_test_images: 20}
references: []
attacks: {configurations: [all], methods: [fgsm, noise], epsilons: [0.1], matrix: true, transfer: true}
"""


def test_a_study_attacks_each_detector_by_what_fits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DETECTORS["nearest_neighbour"], "traits", Traits(differentiable=False))
    file, results = tmp_path / "mixed.yaml", Results(tmp_path / "mixed")
    file.write_text(STUDY, encoding="utf-8")
    plan = make_plan(read.load(file), results)
    while (spec := plan.take()) is not None:
        plan.done(spec.key, run.run(spec, results, device=torch.device("cpu")))
    for unit in attacking.attack_units(plan):
        unit.run(results, torch.device("cpu"))
    attacking.write_attack_tables(plan, results)
    names = {record.spec.configuration: record.spec.detector for record in records(results)}
    table = results.table(results.attacks_file)
    assert sorted(zip(table["configuration"].map(names), table["method"], strict=True)) == [
        ("nearest_neighbour", "noise"),
        ("nearest_neighbour", "square"),
        ("pca", "fgsm"),
        ("pca", "noise"),
    ]
    transfer = results.table(results.transfer_file)
    assert set(transfer["source_configuration"].map(names)) == {"pca", "nearest_neighbour"}
    assert set(transfer["configuration"].map(names)) == {"pca", "nearest_neighbour"}
