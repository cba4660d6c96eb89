"""RotNet, Jigsaw and GT: their transformations, networks, trainings and scores, against the papers' recipes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, special
from torch import Tensor

from puzzle_study.config import layers, read
from puzzle_study.detectors import gt
from puzzle_study.detectors.base import Context, Run, Shape
from puzzle_study.detectors.canvas import Canvas
from puzzle_study.detectors.jigsaw import distant_permutations
from puzzle_study.detectors.pretext import Pretext
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.detectors.wide_resnet import WideResNet, multiply_adds
from puzzle_study.errors import UserError
from tests.detectors.test_conformance import kept, normal

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
NAMES = ("gt", "jigsaw", "rotnet")


def built(name: str, values: dict[str, Any], *, side: int = 16) -> Pretext:
    kind = DETECTORS[name].Settings
    settings = kind.model_validate(layers.merge(kind.SMALL, values))
    detector = DETECTORS[name].build(settings, Context(Shape(1, side, side), 0, CPU, "float32"))
    assert isinstance(detector, Pretext)
    return detector


# The network


def test_wrn_10_4_has_the_weights_of_gts_code() -> None:
    network, head = WideResNet(channels=3, depth=10, widen=4), torch.nn.Linear(256, 72)
    count = sum(weight.numel() for part in (network, head) for weight in part.parameters())
    groups = [(16, 64), (64, 128), (128, 256)]
    convolutions = 3 * 16 * 9 + sum(a * b * 9 + b * b * 9 + a * b for a, b in groups)
    norms = sum(2 * a + 2 * b for a, b in groups) + 2 * 256
    assert count == convolutions + norms + 256 * 72 + 72
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 256)


def test_multiply_adds_are_those_of_the_convolutions() -> None:
    found = 0.0

    def count(module: Any, inputs: Any, output: Tensor) -> None:
        nonlocal found
        found += output[0].numel() * module.weight[0].numel()

    network = WideResNet(channels=3, depth=16, widen=2)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    network(torch.rand(1, 3, 32, 32))
    assert multiply_adds(pixels=32 * 32, channels=3, depth=16, widen=2) == found


# The views


def scipys(image: np.ndarray, flip: bool, down: int, right: int, turns: int) -> np.ndarray:
    """As the code of GT: flip, then an affine transformation with reflection beyond the edge, then quarter turns."""
    moved = np.fliplr(image) if flip else image
    moved = ndimage.affine_transform(moved, np.eye(2), offset=(down, right), order=0, mode="reflect")
    return np.rot90(moved, turns)


@pytest.mark.parametrize(("height", "width", "frame"), [(28, 28, 32), (16, 16, 16), (30, 21, 32)])
def test_gts_views_are_flips_shifts_and_turns_of_the_framed_image(height: int, width: int, frame: int) -> None:
    movements, margin = gt.GT.movements(frame)
    assert margin == frame // 4
    canvas = Canvas(height, width, side=frame, margin=margin, movements=movements)
    image = np.random.default_rng(0).random((height, width), dtype=np.float32)
    top, left = (frame - height) // 2, (frame - width) // 2
    framed = np.pad(image, ((top, frame - height - top), (left, frame - width - left)))
    prepared = canvas.prepare(torch.from_numpy(image)[None, None])
    assert np.array_equal(prepared[0, 0, :height, :width], image)
    found = canvas.window(canvas.move_all(prepared, torch.arange(72))[0])
    shifts = (0, -(frame // 4), frame // 4)
    expected = [scipys(framed, *each) for each in itertools.product((False, True), shifts, shifts, range(4))]
    assert len(found) == len(expected) == 72
    assert np.array_equal(found[:, 0], np.stack(expected))


def test_a_canvas_that_no_memory_holds_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"72 views of 3072×3072 .* lower data\.size"):
        DETECTORS["gt"].build(gt.GTSettings(), Context(Shape(1, 2048, 2048), 0, CPU, "float32"))


def test_rotnets_views_are_the_four_turns() -> None:
    x_NCHW = torch.rand(2, 1, 16, 16)
    detector = kept("rotnet")
    assert isinstance(detector, Pretext)
    every = detector.every_view(detector.prepare(x_NCHW))
    assert torch.equal(every, torch.stack([torch.rot90(x_NCHW, turns, (2, 3)) for turns in range(4)], dim=1))


def test_permutations_are_each_as_far_as_possible_from_those_before() -> None:
    every = list(itertools.permutations(range(4)))
    chosen = distant_permutations(2, 24)
    assert sorted(chosen) == every
    for count in range(1, 24):

        def distance(order: tuple[int, ...], before: tuple[tuple[int, ...], ...] = chosen[:count]) -> int:
            return sum(a != b for other in before for a, b in zip(order, other, strict=True))

        left = set(every) - set(chosen[:count])
        assert distance(chosen[count]) == max(map(distance, left))
    nine = distant_permutations(3, 9)
    assert all(a != b for one, other in itertools.combinations(nine, 2) for a, b in zip(one, other, strict=True))


def test_more_permutations_than_there_are_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("detector: jigsaw\ndata: {name: digits}\npuzzle: {grid: 2, permutations: 25}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"puzzle\.permutations is 25, but puzzle\.grid 2 has 24"):
        read.load(path)


def test_jigsaw_looks_at_each_piece_once_and_answers_as_if_it_had_seen_every_puzzle() -> None:
    detector = kept("jigsaw")
    assert isinstance(detector, Pretext)
    prepared = detector.prepare(normal(3, seed=5).float() / 255)
    with torch.no_grad():
        logit_PK = detector.answer(detector.every_view(prepared).flatten(0, 1))
        k_P = torch.arange(detector.views).repeat(3)
        expected = detector.compare(logit_PK, prepared, k_P).reshape(3, -1)
        torch.testing.assert_close(detector.errors(prepared), expected)


# The training


class Rates(Run):
    """Keeps the learning rate of each epoch."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def epoch(self, row: dict[str, float], state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        self.found.append(state()["parts"]["optimiser"]["param_groups"][0]["lr"])


@pytest.mark.parametrize(
    ("name", "epochs", "rates"),
    [
        ("rotnet", 10, [0.1] * 3 + [0.02] * 3 + [0.004] * 2 + [0.0008] * 2),
        ("jigsaw", 7, [0.01] * 2 + [0.001] * 2 + [0.0001] * 2 + [0.00001]),
        ("gt", 3, [0.001] * 3),
    ],
)
def test_the_learning_rate_falls_as_in_the_authors_code(name: str, epochs: int, rates: list[float]) -> None:
    run = Rates()
    start = DETECTORS[name].Settings().model_dump()["train"]["learning_rate"]
    built(name, {"train": {"epochs": epochs, "views": 1, "learning_rate": start}}).fit(normal(4), run)
    assert run.found == pytest.approx(rates)


@pytest.mark.parametrize(("views", "parts"), [(4, [{0}, {1}, {2}, {3}]), (2, [{0, 1}, {2, 3}]), (1, [{0, 1, 2, 3}])])
def test_an_epoch_has_transformations_from_equal_parts_of_all_for_each_image(
    views: int, parts: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = built("rotnet", {"train": {"epochs": 1, "batch_size": 5, "views": views}})
    seen: list[tuple[int, int]] = []
    view = detector.view

    def watched(prepared_PCHW: Tensor, k_P: Tensor) -> Tensor:
        images = (prepared_PCHW[:, 0, 0, 0] * 255).round().long().tolist()
        seen.extend(zip(images, k_P.tolist(), strict=True))
        return view(prepared_PCHW, k_P)

    monkeypatch.setattr(detector, "view", watched)
    detector.fit(torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 1, 16, 16), Run())
    assert len(seen) == 6 * views
    for image in range(6):
        drawn = sorted(k for number, k in seen if number == image)
        assert all(k in part for k, part in zip(drawn, parts, strict=True))


# The score


def test_a_dirichlet_is_the_likeliest_of_its_samples() -> None:
    generator = np.random.default_rng(0)
    alpha = generator.uniform(0.05, 3.0, (2, 5))
    samples = np.stack([generator.dirichlet(row, 4000) for row in alpha]).clip(1e-300)
    mean, log_mean = samples.mean(1), np.log(samples).mean(1)
    found = gt.dirichlet(torch.from_numpy(mean), torch.from_numpy(log_mean)).numpy()
    slope = special.digamma(found.sum(1, keepdims=True)) - special.digamma(found) + log_mean
    assert np.abs(slope).max() < 1e-6
    np.testing.assert_allclose(found, alpha, rtol=0.15)


@torch.no_grad()
def own_score(detector: Pretext, images: Tensor) -> Tensor:
    """The score of the papers, view by view."""
    x_NCHW = images.float() / 255
    every = detector.every_view(detector.prepare(x_NCHW))
    total_N = torch.zeros(len(x_NCHW))
    for k in range(detector.views):
        logarithm_NK = detector.answer(every[:, k]).softmax(1).log()
        if isinstance(detector, gt.GT):
            total_N -= ((detector.alpha_KK[k] - 1) * logarithm_NK).sum(1)
        else:
            total_N -= logarithm_NK[:, k]
    return total_N / detector.views


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_of_the_errors_is_the_papers_own_score_but_for_unit_and_zero(name: str) -> None:
    detector = kept(name)
    assert isinstance(detector, Pretext)
    assert detector.reading.aggregation == "avg"
    images = normal(12, seed=9)
    expected = 1 + (own_score(detector, images) - detector.mean_K.mean()) / detector.scale
    torch.testing.assert_close(detector.scores(detector.error_matrix(images)), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(detector.validation_NK.mean(0), torch.ones(detector.views), rtol=0, atol=1e-3)
    assert detector.validation_NK.min() >= 0.5


# The presets


def resolved(name: str, dataset: str, tmp_path: Path, more: str = "") -> Any:
    path = tmp_path / "study.yaml"
    path.write_text(f"detector: {name}\ndata: {{name: {dataset}}}\n{more}", encoding="utf-8")
    return read.load(path).study.settings().own


def test_the_defaults_are_the_papers_and_own_images_start_with_fast(tmp_path: Path) -> None:
    rotnet, jigsaw, geometric = (resolved(name, "cifar10", tmp_path) for name in ("rotnet", "jigsaw", "gt"))
    assert (geometric.train.epochs, geometric.train.views, geometric.train.batch_size) == (3, 72, 128)
    assert (rotnet.train.epochs, rotnet.train.views, rotnet.train.batch_size) == (200, 4, 512)
    assert (jigsaw.train.epochs, jigsaw.train.batch_size, jigsaw.puzzle.permutations) == (70, 256, 100)
    for name in NAMES:
        assert resolved(name, "cifar10", tmp_path).model.widen == 4
        assert resolved(name, "folder", tmp_path).preset == "fast"
        assert resolved(name, "mnist", tmp_path, "preset: fast\n").model.widen == 1
