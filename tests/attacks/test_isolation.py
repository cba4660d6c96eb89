"""What an attack must leave alone: random state, modes, weights, the process's imports."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from puzzle_study.attacks.isolation import evaluating, seeded
from puzzle_study.attacks.specs import attack_spec

from . import planted
from .planted import ATTACKS, EPSILON, attacked, fgsm

METHODS = ("fgsm", "pgd", "apgd", "square", "noise")
SPECS = [attack_spec("attack1", name, epsilon=EPSILON, steps=2, queries=4) for name in METHODS]


def run(detector: torch.nn.Module) -> list[torch.Tensor]:
    return [result.scores for result in attacked(detector, planted.images(2), *SPECS)]


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


def test_random_state_and_modes_come_back_after_an_error() -> None:
    before, detector = torch.get_rng_state(), planted.Linear().train()
    with contextlib.suppress(KeyError), seeded(3), evaluating(detector):
        torch.rand(3)
        assert not detector.training
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
    assert detector.training


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


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_runs_where_the_caller_forbids_gradients(context: type[torch.no_grad]) -> None:
    detector = planted.puzzle_detector(count=3)
    expected = run(detector)
    with context():
        found = run(detector)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_images_must_be_in_the_unit_range() -> None:
    with pytest.raises(ValueError, match=r"uint8 or floats in \[0, 1\], got floats from 0 to 255"):
        attacked(planted.Linear(), torch.tensor([0.0, 255.0]).reshape(1, 1, 1, 2), fgsm())


def test_floats_and_bytes_are_the_same_images() -> None:
    x_NCHW, detector = planted.images(2), planted.Linear()
    floats = attacked(detector, x_NCHW.float() / 255, *SPECS)
    for one, other in zip(attacked(detector, x_NCHW, *SPECS), floats, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_detectors_are_attacked_in_their_own_precision(precision: Any) -> None:
    detector = planted.puzzle_detector(count=3)
    detector.precision = precision
    for result in attacked(detector, planted.images(3), *map(fgsm, ATTACKS)):
        assert result.scores.dtype == torch.float32
        assert result.spec.attack != "attack1" or result.scores.mean() > result.clean_scores.mean()
        assert "zero_gradient" not in result.flags


def test_no_images_and_no_targets() -> None:
    for count in (0, 2):
        for result in attacked(planted.Linear(), planted.images(count), *SPECS, labels=[True] * count):
            assert len(result.scores) == count
            assert result.perturbed.shape == (0, 1, 16, 16)
            assert torch.equal(result.scores, result.clean_scores)


def test_progress_and_kept_images() -> None:
    calls: list[int] = []
    results = attacked(planted.Linear(), planted.images(4), *SPECS, progress=lambda: calls.append(1), keep=2)
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
    detector, x_NCHW = planted.puzzle_detector(count=5), planted.images(3)
    specs = [attack_spec(a, m, epsilon=EPSILON, steps=3) for a in ATTACKS for m in ("fgsm", "pgdl2")]
    expected = attacked(detector, x_NCHW, *specs)
    detector.cuda()
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    for one, other in zip(expected, attacked(detector, x_NCHW, *specs), strict=True):
        assert other.scores.device.type == other.perturbed.device.type == "cpu"
        torch.testing.assert_close(other.clean_scores, one.clean_scores, rtol=1e-2, atol=0)
        if one.spec.method == "fgsm":
            torch.testing.assert_close(other.scores, one.scores, rtol=1e-2, atol=0)
    assert torch.equal(torch.cuda.get_rng_state(), before)
