"""Memory that runs out: scoring and attacks go on with less at once, and what does not fit is said in a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from puzzle_study.attacks.specs import attack_spec
from puzzle_study.attacks.transfer import aggregation_matrix
from puzzle_study.config import Reading
from puzzle_study.detectors import checkpoint, files
from puzzle_study.detectors.memory import AtOnce, halving, needed_gib
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.detectors.puzzle_ae.training import Trainer
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.trials.run import run

from ..attacks.planted import attacked, fgsm
from . import tiny
from .tiny import CPU

GPU_ERROR = (
    "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.00 GiB is free."
)


class Small(nn.Module):
    """A network on a GPU that has room for so many puzzles, or for so many fewer where gradients are wanted."""

    def __init__(self, network: nn.Module, room: int, room_with_gradient: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.room, self.room_with_gradient = room, room if room_with_gradient is None else room_with_gradient
        self.head = network.head
        self.sizes: list[int] = []

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.sizes.append(len(x_NCHW))
        if len(x_NCHW) > (self.room_with_gradient if x_NCHW.requires_grad else self.room):
            raise torch.OutOfMemoryError(GPU_ERROR)
        answer: Tensor = self.network(x_NCHW)
        return answer


def small(detector: PuzzleDetector, room: int, room_with_gradient: int | None = None) -> PuzzleDetector:
    """The same detector where memory is short."""
    network: Any = Small(detector.network, room, room_with_gradient)
    other = PuzzleDetector(network, detector.puzzle_set, shape=detector.shape, reading=detector.reading)
    other.validation_NK = detector.validation_NK
    return other


def sizes_of(detector: PuzzleDetector) -> list[int]:
    """How many puzzles its network was asked for each time."""
    network: Any = detector.network
    sizes: list[int] = network.sizes
    return sizes


def calibrated(aggregation: str = "avg") -> PuzzleDetector:
    permutations = puzzles.all_permutations()[:7]
    made = tiny.detector(puzzles.PuzzleSet("jigsaw", 2, permutations), reading=Reading("l2", aggregation))
    made.calibrate(tiny.images(6, seed=3))
    return made


@pytest.mark.parametrize("room", [1, 3, 20, 50])
@pytest.mark.parametrize("aggregation", ["min", "avg"])
def test_scores_and_maps_that_run_out_of_memory_go_on_with_half_as_much_and_the_same_numbers(
    room: int, aggregation: str
) -> None:
    detector, images = calibrated(aggregation), tiny.images(15)
    for work in (PuzzleDetector.error_matrix, PuzzleDetector.maps):
        short = small(detector, room)
        torch.testing.assert_close(work(short, images), work(detector, images), rtol=1e-5, atol=1e-7)
        sizes = sizes_of(short)
        assert max(sizes) > room
        sizes.clear()
        work(short, images)
        assert max(sizes) <= room, "what did not fit is not tried again"


@pytest.mark.parametrize("work", [PuzzleDetector.error_matrix, PuzzleDetector.maps])
def test_memory_that_does_not_suffice_for_one_puzzle_is_a_sentence(
    work: Callable[[PuzzleDetector, Tensor], object],
) -> None:
    with pytest.raises(
        UserError, match=r"memory for one view of an image at a time \(CUDA out of memory.*lower data\.size or"
    ):
        work(small(calibrated(), 0), tiny.images(2))


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["avg", "max"])
@pytest.mark.parametrize("attack", ["attack1", "attack2", "attack2_averaged"])
def test_attacks_that_run_out_of_memory_go_on_with_half_as_much_and_the_same_numbers(
    attack: str, aggregation: str
) -> None:
    """Gradients need more room than values: they run out later, in the middle of an attack."""
    detector, images = calibrated(aggregation), tiny.images(5)
    specs = [attack_spec(attack, "fgsm", epsilon=0.05), attack_spec(attack, "pgdl2", epsilon=0.05, steps=2)]
    expected = attacked(detector, images, *specs, compare=False)
    short = small(detector, 8, 3)
    for one, other in zip(expected, attacked(short, images, *specs, compare=False), strict=True):
        torch.testing.assert_close(other.clean_scores, one.clean_scores, rtol=1e-5, atol=0)
        torch.testing.assert_close(other.scores, one.scores, rtol=1e-4, atol=0)
        assert other.flags == one.flags
    refused = sum(size > 8 for size in sizes_of(short))
    assert 0 < refused <= 16, "halved once and for all, not for every batch"
    with pytest.raises(UserError, match="one view of an image at a time"):
        attacked(small(detector, 8, 0), images, *specs, compare=False)


@pytest.mark.slow
def test_the_matrix_of_aggregations_is_measured_in_little_memory_too() -> None:
    detector, images, labels = calibrated(), tiny.images(4), torch.zeros(4, dtype=torch.bool)
    expected = aggregation_matrix(detector, images, labels, [fgsm()])
    found = aggregation_matrix(small(detector, 5, 2), images, labels, [fgsm()])
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.scores, one.scores, rtol=1e-4, atol=0)


def test_a_detector_that_makes_no_puzzles_is_attacked_with_fewer_images_at_once() -> None:
    class Mean(nn.Module):
        def forward(self, x_NCHW: Tensor) -> Tensor:
            if len(x_NCHW) > 2:
                raise torch.OutOfMemoryError(GPU_ERROR)
            return x_NCHW.mean((1, 2, 3))

    (result,) = attacked(Mean(), tiny.images(7), fgsm(), compare=False)
    assert bool((result.scores > result.clean_scores).all())


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_memory_that_runs_out_in_a_library_of_the_gpu_is_known_by_its_names(words: str) -> None:
    at_once = AtOnce(4)

    def work() -> int:
        if at_once.count > 1:
            raise RuntimeError(words)
        return at_once.count

    assert halving(at_once, work) == 1


@pytest.mark.parametrize(
    "words",
    [
        "mat1 and mat2 shapes cannot be multiplied",
        "CUDA error: device-side assert triggered",
        "cuDNN error: CUDNN_STATUS_BAD_PARAM",
    ],
)
def test_other_errors_are_not_taken_for_lack_of_memory(words: str) -> None:
    def broken() -> None:
        raise RuntimeError(words)

    with pytest.raises(RuntimeError, match=words):
        halving(AtOnce(8), broken)


def test_a_full_gpu_is_not_a_damaged_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are read into the CPU's memory, and then there may be no room for them on the GPU."""
    files.save(calibrated(), tmp_path, {})

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError(GPU_ERROR)

    monkeypatch.setattr(PuzzleDetector, "placed", full)
    with pytest.raises(UserError, match=r"does not fit into memory \(CUDA out of memory"):
        files.load_detector(tmp_path, device=CPU)


def test_too_little_memory_for_a_checkpoint_does_not_make_the_one_before_it_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch in (1, 2):
        checkpoint.save(tmp_path, epoch, {"epoch": epoch})
    load, wanted = torch.load, list[object]()

    def short(path: Path, *, map_location: Any, weights_only: bool) -> object:
        wanted.append(map_location)
        if len(wanted) == 1:
            raise MemoryError
        return load(path, map_location=map_location, weights_only=weights_only)

    monkeypatch.setattr(torch, "load", short)
    with pytest.raises(MemoryError):
        checkpoint.load_newest(tmp_path)
    assert checkpoint.load_newest(tmp_path) == {"epoch": 2}
    assert set(wanted) == {"cpu"}


def test_the_memory_of_the_failed_try_is_free_before_the_next() -> None:
    """The tensors of the failed try hang on its traceback: they must be gone when the work is tried again."""
    alive: list[int] = []

    class Counted:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    at_once = AtOnce(4)

    def work() -> int:
        assert not alive
        held = Counted()
        if at_once.count > 1:
            raise torch.OutOfMemoryError(GPU_ERROR)
        del held
        return at_once.count

    assert halving(at_once, work) == 1


def test_a_training_that_does_not_fit_names_the_batch_size_and_the_memory_it_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once as the CPU's allocator says it, in earnest, once as a GPU's does."""
    monkeypatch.setenv("PUZZLE_STUDY_CACHE", str(tmp_path / "cache"))
    spec = tiny.trial({"train.batch_size": 8, "data.max_train_images": 24, "data.max_test_images": 20})

    def too_much(self: Trainer, x_NCHW: Tensor) -> Tensor:
        return torch.empty(2**50, dtype=torch.uint8)

    def gpu(self: Trainer, x_NCHW: Tensor) -> Tensor:
        raise torch.OutOfMemoryError(GPU_ERROR)

    for step, needed in ((too_much, "at least 104857"), (gpu, "at least ")):
        monkeypatch.setattr(Trainer, "_step", step)
        record = run(spec, Results(tmp_path / needed), device=CPU)
        assert record.status == "failed"
        assert record.error.startswith("fitting puzzle_ae does not fit the memory: it needed " + needed)
        assert re.search(r"GiB \(.*lower train\.batch_size or model\.base_channels", record.error)


@pytest.mark.parametrize("values", [{}, {"train.lambda": 0.0}, {"train.adversary.method": "none"}])
@pytest.mark.parametrize("room", [5, 2])
def test_a_training_that_runs_out_of_memory_goes_on_in_parts_with_the_same_numbers(
    values: dict[str, Any], room: int
) -> None:
    """The discriminator sees whole batches all the while: its batch norm needs them."""
    settings, images = tiny.settings({"train.batch_size": 8, "train.averaging": 0.5, **values}), tiny.images(21)
    whole, short = tiny.trainer(settings), tiny.trainer(settings)
    sizes: list[int] = []

    def full(network: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        sizes.append(len(arguments[0]))
        if sizes[-1] > room:
            raise torch.OutOfMemoryError(GPU_ERROR)

    short.network.register_forward_pre_hook(full)
    for _ in range(2):
        expected, found = whole.epoch(images), short.epoch(images)
        assert asdict(found) == pytest.approx(asdict(expected), rel=1e-4)
    assert sum(size > room for size in sizes) == {5: 1, 2: 2}[room], "what did not fit is not tried again"
    assert torch.equal(short.generator.get_state(), whole.generator.get_state())
    for one, other in zip(short.solver.parameters(), whole.solver.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_training_that_has_no_room_for_one_image_says_what_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Trainer, input_NCHW: Tensor) -> Tensor:
        raise torch.OutOfMemoryError(GPU_ERROR)

    monkeypatch.setattr(Trainer, "_reconstruct", full)
    trainer = tiny.trainer(tiny.settings())
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        trainer.epoch(tiny.images(4))
    assert trainer.at_once.count == 1


def test_what_was_needed_is_what_was_held_and_what_was_asked_for() -> None:
    held = needed_gib(MemoryError(), CPU)
    assert held > 0
    assert needed_gib(torch.OutOfMemoryError(GPU_ERROR), CPU) == pytest.approx(held + 1.5, abs=0.1)
