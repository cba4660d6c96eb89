"""What an attack must leave alone: random state, modes, weights, the process's imports."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from puzzle_study.attacks.isolation import evaluating, seeded
from puzzle_study.attacks.running import run_attacks
from puzzle_study.attacks.specs import attack_spec

from . import planted

METHODS = ("fgsm", "pgd", "apgd", "square", "noise")
SPECS = [attack_spec("attack1", name, epsilon=0.05, steps=2, queries=4) for name in METHODS]
VALIDATION = torch.tensor([0.9, 1.0, 1.1])


def run(detector: torch.nn.Module) -> list[torch.Tensor]:
    x_NCHW = planted.images(2)
    results = run_attacks(detector, x_NCHW, planted.normal_labels(2), VALIDATION, SPECS)
    return [result.scores for result in results]


def test_global_random_state_is_untouched() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state(), str(np.random.get_state(legacy=False)), random.getstate()  # noqa: NPY002
    run(planted.Linear())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state(legacy=False)) == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_global_random_state_does_not_matter() -> None:
    torch.manual_seed(1)
    first = run(planted.Linear())
    torch.manual_seed(2)
    torch.rand(17)
    torch.testing.assert_close(run(planted.Linear()), first, rtol=0, atol=0)


def test_random_state_comes_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with contextlib.suppress(KeyError), seeded(3):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_frozen_parts_stay_frozen_and_weights_get_no_gradient() -> None:
    detector = planted.puzzle_detector(count=3)
    detector.train()
    detector.network.stem.eval()
    modes = [part.training for part in detector.modules()]
    run(detector)
    assert [part.training for part in detector.modules()] == modes
    assert all(weight.grad is None and weight.requires_grad for weight in detector.parameters())


def test_the_detector_is_attacked_in_eval_mode() -> None:
    class Moody(planted.Linear):
        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return super().forward(x_NCHW)

    detector = Moody().train()
    run(detector)
    assert detector.training


def test_modes_come_back_after_an_error() -> None:
    detector = planted.Linear().train()
    with contextlib.suppress(KeyError), evaluating(detector):
        assert not detector.training
        raise KeyError
    assert detector.training


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_runs_where_the_caller_forbids_gradients(context: type[torch.no_grad]) -> None:
    detector = planted.puzzle_detector(count=3)
    expected = run(detector)
    with context():
        found = run(detector)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_images_must_be_in_the_unit_range() -> None:
    with pytest.raises(ValueError, match=r"uint8 or floats in \[0, 1\], got floats from 0 to 255"):
        run_attacks(
            planted.Linear(),
            torch.tensor([[0.0, 255.0]]).reshape(1, 1, 1, 2),
            planted.normal_labels(1),
            torch.ones(1),
            SPECS,
        )


def test_floats_and_bytes_are_the_same_images() -> None:
    x_NCHW, detector = planted.images(2), planted.Linear()
    bytes_, floats = (
        run_attacks(detector, x, planted.normal_labels(2), torch.tensor([0.9, 1.1]), SPECS)
        for x in (x_NCHW, x_NCHW.float() / 255)
    )
    for one, other in zip(bytes_, floats, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=0)


def test_bfloat16_detectors_are_attacked_in_their_own_precision() -> None:
    detector = planted.puzzle_detector(count=3)
    detector.precision = "bfloat16"
    x_NCHW, validation = planted.images(3), detector.scores(detector.validation_NK)
    specs = [attack_spec(name, "fgsm", epsilon=0.05) for name in ("attack1", "attack2", "attack2_averaged")]
    for result in run_attacks(detector, x_NCHW, planted.normal_labels(3), validation, specs):
        assert result.scores.dtype == torch.float32
        assert result.spec.attack != "attack1" or result.scores.mean() > result.clean_scores.mean()
        assert "zero_gradient" not in result.flags


def test_no_images_and_no_targets() -> None:
    for count in (0, 2):
        labels = torch.ones(count, dtype=torch.bool)
        for result in run_attacks(planted.Linear(), planted.images(count), labels, torch.ones(2), SPECS):
            assert len(result.scores) == count
            assert result.perturbed.shape == (0, 1, 16, 16)
            assert torch.equal(result.scores, result.clean_scores)


def test_progress_and_kept_images() -> None:
    calls: list[int] = []
    x_NCHW = planted.images(4)
    results = run_attacks(
        planted.Linear(),
        x_NCHW,
        planted.normal_labels(4),
        torch.ones(2),
        SPECS,
        progress=lambda: calls.append(1),
        keep=2,
    )
    assert len(calls) == len(SPECS)
    assert all(len(result.perturbed) == 2 and len(result.indices) == 4 for result in results)


@pytest.mark.slow
def test_imports_are_light_and_without_torchvision() -> None:
    code = (
        "import sys; from puzzle_study import config; from puzzle_study.attacks import specs;"
        "specs.attack_specs(config.Attacks()); assert 'torch' not in sys.modules; import puzzle_study.attacks.template;"
        "import torchattacks; assert 'torchvision' not in sys.modules and 'requests' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    detector = planted.puzzle_detector(count=5)
    x_NCHW, validation = planted.images(3), detector.scores(detector.validation_NK)
    specs = [
        attack_spec(a, m, epsilon=0.05, steps=3)
        for a in ("attack1", "attack2", "attack2_averaged")
        for m in ("fgsm", "pgdl2")
    ]
    expected = run_attacks(detector, x_NCHW, planted.normal_labels(3), validation, specs)
    detector.cuda()
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    for one, other in zip(
        expected, run_attacks(detector, x_NCHW, planted.normal_labels(3), validation.cuda(), specs), strict=True
    ):
        assert other.scores.device.type == other.perturbed.device.type == "cpu"
        torch.testing.assert_close(other.clean_scores, one.clean_scores, rtol=1e-2, atol=0)
        if one.spec.method == "fgsm":
            torch.testing.assert_close(other.scores, one.scores, rtol=1e-2, atol=0)
    assert torch.equal(torch.cuda.get_rng_state(), before)
