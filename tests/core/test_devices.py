"""What a process does to compute fast, and what it leaves as it was."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from puzzle_study.attacks import objectives
from puzzle_study.config import read
from puzzle_study.detectors.devices import autocast, convolving, granted_device, resolve_precision, whole_float32
from puzzle_study.detectors.puzzle_ae import training
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study.environment import Account

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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_memory_that_was_freed_is_used_again_without_the_kernel() -> None:
    def faults(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, timeout=60
        )
        return int(done.stdout)

    assert faults("keep") * 10 < faults("leave")


def settings_of_cudnn() -> tuple[Any, ...]:
    cudnn: Any = torch.backends.cudnn
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision


@pytest.fixture
def cudnn_precision() -> Iterator[None]:
    """Give back what a test sets of both the flags that a program can set; the older one sets the newer ones too."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.allow_tf32
    yield
    cudnn.allow_tf32 = before


@pytest.mark.usefixtures("cudnn_precision")
@pytest.mark.parametrize(
    ("flag", "value"),
    [("allow_tf32", True), ("allow_tf32", False), ("conv.fp32_precision", "tf32"), ("conv.fp32_precision", "ieee")],
)
def test_float32_on_a_gpu_is_not_rounded_to_tf32_and_the_flags_of_the_process_are_given_back(
    flag: str, value: object
) -> None:
    """Whichever of PyTorch's two flags the program that calls us has set."""
    cudnn: Any = torch.backends.cudnn
    *within, name = flag.split(".")
    setattr(cudnn.conv if within else cudnn, name, value)
    before = settings_of_cudnn()
    with autocast(CUDA, "float32"):
        assert settings_of_cudnn() == (*before[:3], "ieee")
        with autocast(CUDA, "tf32"):
            assert settings_of_cudnn() == (*before[:3], "tf32")
        assert settings_of_cudnn() == (*before[:3], "ieee")
    assert settings_of_cudnn() == before
    with pytest.raises(KeyError), autocast(CUDA, "float32"):
        raise KeyError
    assert settings_of_cudnn() == before


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_float32_on_a_cpu_leaves_the_flags_alone(precision: Any) -> None:
    before = settings_of_cudnn()
    with autocast(tiny.CPU, precision):
        assert settings_of_cudnn() == before


@pytest.fixture
def flags(cudnn_precision: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """cuDNN's flags for convolutions, as they would be set if the CPU were a GPU, in a program that allows TF32."""
    monkeypatch.setattr(training, "convolving", lambda device, precision: convolving(CUDA, precision))
    monkeypatch.setattr(objectives, "whole_float32", lambda device: whole_float32(CUDA))
    cudnn: Any = torch.backends.cudnn
    cudnn.conv.fp32_precision = "tf32"
    return cudnn.conv


def look_at(flags: Any, tensors: Iterable[torch.Tensor]) -> list[str]:
    """Return a list that receives the flag whenever the gradient of one of the tensors is taken."""
    seen: list[str] = []
    for tensor in tensors:
        tensor.register_hook(lambda _: seen.append(flags.fp32_precision))
    return seen


@pytest.mark.parametrize(("precision", "wanted"), [("float32", "ieee"), ("tf32", "tf32")])
def test_gradients_of_a_training_are_taken_as_its_precision_says(precision: Any, wanted: str, flags: Any) -> None:
    """The flag counts when a gradient is taken, long after the forward pass."""
    flags.fp32_precision = "ieee" if wanted == "tf32" else "tf32"
    trainer = tiny.trainer(tiny.settings(), precision=precision)
    assert trainer.discriminator is not None
    weights = [*trainer.network.parameters(), *trainer.discriminator.parameters()]
    seen = look_at(flags, weights)
    trainer.epoch(tiny.images(4))
    assert len(seen) == len(weights)
    assert set(seen) == {wanted}
    assert flags.fp32_precision != wanted, "it is given back"


def test_gradients_of_attacks_are_taken_in_whole_float32(flags: Any) -> None:
    leaf = torch.rand(3, requires_grad=True)
    seen = look_at(flags, [leaf])
    objectives.gradient(leaf.sum(), leaf)
    assert seen == ["ieee"]
    assert flags.fp32_precision == "tf32"


def with_gpu(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None, *, major: int = 8) -> None:
    """A machine with a GPU of some generation, on which the first computation may fail."""

    def ones(*shape: int, device: str) -> torch.Tensor:
        if error is not None:
            raise error
        return torch.zeros(*shape)

    for name, answer in (
        ("is_available", True),
        ("device_count", 1),
        ("current_device", 0),
        ("get_device_properties", types.SimpleNamespace(major=major)),
        ("device", contextlib.nullcontext()),
        ("set_per_process_memory_fraction", None),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


def test_what_holds_no_gpu_computes_on_the_cpu_and_what_holds_one_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch)
    assert granted_device(0) == tiny.CPU
    assert granted_device(0.25) == CUDA


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, r"sees 0 of 1 GPUs"),
        (
            RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore"),
            r"no kernel image",
        ),
    ],
)
def test_a_gpu_that_pytorch_cannot_use_is_a_sentence_and_not_a_training_on_the_cpu(
    error: Exception | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu(monkeypatch, error)
    if error is None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert granted_device(0) == tiny.CPU
    with pytest.raises(UserError, match=rf"^resources\.gpu .*{words}.*resources\.gpu=0$"):
        granted_device(1)


def test_a_gpu_that_is_full_is_not_one_that_pytorch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, RuntimeError("CUDA error: out of memory"))
    assert granted_device(1) == CUDA


@pytest.mark.parametrize(("major", "expected"), [(7, "float32"), (8, "bfloat16")])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(
    major: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu(monkeypatch, major=major)
    assert resolve_precision("auto", CUDA) == expected


@pytest.mark.parametrize("wanted", ["float32", "tf32", "bfloat16", "float16"])
def test_a_precision_that_is_asked_for_is_the_one(wanted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch)
    assert resolve_precision(wanted, CUDA) == wanted


@pytest.mark.parametrize(("device", "words"), [(tiny.CPU, "train on the CPU"), (CUDA, "this GPU is older")])
def test_tf32_needs_a_gpu_that_has_it(device: torch.device, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, major=7)
    with pytest.raises(UserError, match=rf"^precision tf32 needs a GPU.*{words}.*use auto$"):
        resolve_precision("tf32", device)


def test_a_driver_without_a_gpu_leaves_the_precision_to_the_machines_that_have_one(tmp_path: Path) -> None:
    def precision(gpu: float) -> Any:
        values = [f"resources.gpu={gpu}", "train.precision=tf32"]
        study = read.load(Path("studies/digits.yaml"), assignments=values).study
        return Account(study, Results(tmp_path)).so_far()["hardware"]["precision"]

    assert precision(0.5)["puzzle_ae"] == "tf32"
    with pytest.raises(UserError, match="trials train on the CPU"):
        precision(0)


@pytest.mark.parametrize("kind", ["gt", "jigsaw", "rotnet"])
def test_detectors_that_do_not_scale_their_losses_refuse_float16(kind: str) -> None:
    with pytest.raises(ValidationError, match=r"'auto', 'float32', 'tf32' or 'bfloat16'"):
        DETECTORS[kind].Settings.model_validate({"train": {"precision": "float16"}})
