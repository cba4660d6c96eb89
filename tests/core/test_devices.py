"""What a process does to compute fast, and what it leaves as it was."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from puzzle_study.attacks import objectives
from puzzle_study.detectors.devices import autocast, whole_float32
from puzzle_study.detectors.puzzle_ae import training

from . import tiny

CUDA = torch.device("cuda")
# Pages that the kernel filled for fifty tensors of 64 MiB, one after the other.
FAULTS = """
import resource, sys, torch
from puzzle_study.detectors.devices import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(10):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_memory_that_was_freed_is_used_again_without_the_kernel() -> None:
    def faults(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, timeout=60
        )
        return int(done.stdout)

    assert faults("keep") * 10 < faults("leave")


def settings_of_cudnn() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32


@pytest.mark.parametrize("allowed", [True, False])
def test_float32_on_a_gpu_is_not_rounded_to_tf32_and_the_flags_of_the_process_are_given_back(
    allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    before = settings_of_cudnn()
    with autocast(CUDA, "float32"):
        assert settings_of_cudnn() == (*before[:3], False)
    assert settings_of_cudnn() == before
    with pytest.raises(KeyError), autocast(CUDA, "float32"):
        raise KeyError
    assert settings_of_cudnn() == before


def test_float32_on_a_cpu_leaves_the_flags_alone() -> None:
    before = settings_of_cudnn()
    with autocast(tiny.CPU, "float32"):
        assert settings_of_cudnn() == before


def test_gradients_of_training_and_attacks_are_taken_in_whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag counts when a gradient is taken, long after the forward pass."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for module in (training, objectives):
        monkeypatch.setattr(module, "whole_float32", lambda device: whole_float32(CUDA))
    seen: list[bool] = []

    def look(slope: torch.Tensor) -> None:
        seen.append(torch.backends.cudnn.allow_tf32)

    trainer = tiny.trainer(tiny.settings())
    assert trainer.discriminator is not None
    weights = [*trainer.network.parameters(), *trainer.discriminator.parameters()]
    for weight in weights:
        weight.register_hook(look)
    trainer.epoch(tiny.images(4))
    leaf = torch.rand(3, requires_grad=True)
    leaf.register_hook(look)
    objectives.gradient(leaf.sum(), leaf)
    assert len(seen) == len(weights) + 1
    assert not any(seen)
    assert torch.backends.cudnn.allow_tf32
