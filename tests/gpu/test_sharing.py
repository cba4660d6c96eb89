"""Several trials on one imitated GPU: each keeps to its share of the memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from puzzle_study.config import Reading
from puzzle_study.detectors.devices import granted_device
from puzzle_study.detectors.puzzle_ae import puzzles

from ..core import tiny
from .imitation import CUDA, GIB, Seen, imitated


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    with imitated() as seen:
        yield seen


@pytest.mark.parametrize(("gpus", "share"), [(0.25, 0.25), (1, 1.0), (2, 1.0)])
def test_a_trial_takes_its_share_of_the_memory_and_lets_cudnn_measure(gpus: float, share: float, gpu: Seen) -> None:
    assert granted_device(gpus).type == "cuda"
    assert gpu.fractions == [share]
    assert torch.backends.cudnn.benchmark
    assert granted_device(0).type == "cpu"
    assert gpu.fractions == [share], "the CPU has no shares"


def test_chunks_shrink_with_the_share(gpu: Seen) -> None:
    every = puzzles.PuzzleSet("jigsaw", 2, puzzles.all_permutations())
    detector = tiny.detector(every, reading=Reading("l2", "avg"))
    on_cpu = detector.views_at_once()
    detector.to(CUDA)
    gpu.free = GIB // 64
    whole, gradient = detector.views_at_once(), detector.differentiable_views_at_once()
    granted_device(0.25)
    assert detector.views_at_once() == whole // 4 > on_cpu
    assert detector.differentiable_views_at_once() == gradient, "so little is free that the share does not count"
    gpu.free = 8 * GIB
    quarter = detector.differentiable_views_at_once()
    granted_device(0.125)
    assert detector.differentiable_views_at_once() == pytest.approx(quarter / 2, abs=1)
