"""Kernels chosen by measuring: the same sums, one choice for each machine, and a word if it changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puzzle_study.config import read
from puzzle_study.datasets import cache
from puzzle_study.detectors import kernels
from puzzle_study.detectors.convolution import PASSES, Convolution
from puzzle_study.detectors.kernels import LAYOUTS
from puzzle_study.detectors.puzzle_ae.networks import UNet, choose_kernels, place
from puzzle_study.results import Results
from puzzle_study.study.environment import Account
from tests.conftest import STUDY

SLOW_PRODUCTS = dict.fromkeys(LAYOUTS, (1.0, 1.0, 1.0)) | {f"product {way}": (2.0, 2.0, 2.0) for way in LAYOUTS}
FAST_PRODUCTS = SLOW_PRODUCTS | {"product channels_last": (0.1, 0.1, 0.1)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Sequence[float]]]:
    """What is measured next, instead of this machine's times; the list is empty once all were asked for."""
    waiting: list[dict[str, Sequence[float]]] = []
    monkeypatch.setattr(kernels, "measured", lambda *_, **__: waiting.pop(0))
    return waiting


def block(inputs: int = 128, outputs: int = 128) -> list[Convolution]:
    return [Convolution(inputs, outputs, 3, padding=1), Convolution(outputs, outputs, 3, padding=1)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("height", "width", "kernel"), [(1, 1, 3), (1, 4, 3), (2, 2, 3), (5, 3, 3), (2, 6, 5), (4, 4, 1)]
)
@pytest.mark.parametrize("each", [*PASSES, "all"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_pass_gives_the_same_sums_as_a_plain_convolution(
    each: str, height: int, width: int, kernel: int, layout: str, precision: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = Convolution(6, 5, kernel, padding=kernel // 2)
    convolution.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    convolution.products = frozenset(own for own in PASSES if each in (own, "all"))
    x_NCHW = torch.randn(3, 6, height, width, generator=generator).contiguous(memory_format=LAYOUTS[layout])

    def results(convolve: nn.Module) -> list[Tensor]:
        leaf = x_NCHW.clone().requires_grad_()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            answer = F.relu(convolve(leaf), inplace=True)
        return [answer, *torch.autograd.grad(answer.float().square().sum(), [leaf, *convolution.parameters()])]

    def plain(x: Tensor) -> Tensor:
        return F.conv2d(x, convolution.weight, convolution.bias, padding=kernel // 2)

    tolerance = 1e-5 if precision == torch.float32 else 2e-2
    for found, expected in zip(results(convolution), results(plain), strict=True):  # type: ignore[arg-type]
        assert found.dtype == expected.dtype
        torch.testing.assert_close(
            found.float(), expected.float(), rtol=tolerance, atol=tolerance * float(expected.detach().abs().max())
        )


def test_only_a_clearly_faster_way_is_chosen() -> None:
    assert kernels.decided([SLOW_PRODUCTS], "contiguous") == {"layout": "contiguous", "products": [[]]}
    hardly = SLOW_PRODUCTS | {"product contiguous": (0.95, 0.5, 1.0), "channels_last": (0.99, 0.99, 0.99)}
    assert kernels.decided([hardly], "contiguous") == {"layout": "contiguous", "products": [["input"]]}
    found = kernels.decided([FAST_PRODUCTS, SLOW_PRODUCTS], "contiguous")
    assert found == {"layout": "channels_last", "products": [list(PASSES), []]}


def test_a_choice_is_measured_once_for_all_processes_and_written_down(times: list[Any], tmp_path: Path) -> None:
    times += [FAST_PRODUCTS, FAST_PRODUCTS]
    for _ in range(2):
        kernels._choice.cache_clear()  # like another process
        ours = block()
        kernels.choose(ours, 3, 3, "float32")
        assert [each.products for each in ours] == [frozenset(PASSES)] * 2
        assert all(each.weight.is_contiguous(memory_format=torch.channels_last) for each in ours)
    assert times == []
    (path,) = (tmp_path / "cache" / "kernels").glob("*.json")
    assert json.loads(path.read_text(encoding="utf-8")) == kernels.chosen(torch.get_num_threads())["choices"]
    times += [SLOW_PRODUCTS, SLOW_PRODUCTS]
    kernels.choose(other := block(), 3, 3, "bfloat16")
    assert [each.products for each in other] == [frozenset()] * 2


def test_of_two_workers_at_once_one_measures_and_the_other_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, waiting = Event(), Event(), [FAST_PRODUCTS, FAST_PRODUCTS, SLOW_PRODUCTS, SLOW_PRODUCTS]

    def slow(*_: Any, **__: Any) -> kernels.Times:
        begun.set()
        assert go_on.wait(60)
        return waiting.pop(0)

    monkeypatch.setattr(kernels, "measured", slow)
    both = block(), block()
    with ThreadPoolExecutor(2) as workers:
        first = workers.submit(kernels.choose, both[0], 3, 3, "float32")
        assert begun.wait(60)
        second = workers.submit(kernels.choose, both[1], 3, 3, "float32")
        go_on.set()
        first.result()
        second.result()
    assert len(waiting) == 2
    assert all(each.products == frozenset(PASSES) for ours in both for each in ours)


def test_narrow_convolutions_and_a_cache_that_cannot_be_written_leave_everything_as_it_is(
    times: list[Any], tmp_path: Path
) -> None:
    kernels.choose(narrow := block(64, 128), 3, 3, "float32")
    (tmp_path / "cache").write_text("not a folder", encoding="utf-8")
    times += [FAST_PRODUCTS, FAST_PRODUCTS]
    kernels.choose(wide := block(), 3, 3, "float32")
    assert [each.products for each in (*narrow, *wide)] == [frozenset()] * 4
    assert len(times) == 2


def test_a_network_with_chosen_kernels_gives_a_plain_ones_answers_and_can_be_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "WIDE", 1)
    monkeypatch.setattr(kernels, "measured", lambda *_, **__: FAST_PRODUCTS)
    plain = UNet(channels=1, base_channels=4)
    ours = UNet(channels=1, base_channels=4)
    ours.load_state_dict(plain.state_dict())
    choose_kernels(place(ours, torch.device("cpu"), side=28), height=28, width=20, precision="float32")
    convolutions = [each for each in ours.modules() if isinstance(each, Convolution)]
    assert len(convolutions) == 18
    assert all(each.products == frozenset(PASSES) for each in convolutions)

    def results(network: nn.Module) -> list[Tensor]:
        x = torch.rand(2, 1, 28, 20, generator=torch.Generator().manual_seed(0), requires_grad=True)
        answer = network(x)
        return [answer, *torch.autograd.grad(answer.square().sum(), [x, *network.parameters()])]

    for found, expected in zip(results(ours), results(plain), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as an exporter does
    answer = convolutions[0](torch.rand(1, 1, 28, 20))
    assert answer.grad_fn is not None
    assert answer.grad_fn.name().startswith("ConvolutionBackward")


def test_this_machine_is_measured() -> None:
    found = kernels.measured(8, 8, 3, 4, 4, "float32", threads=1)
    assert found.keys() == SLOW_PRODUCTS.keys()
    assert all(0 < seconds < 60 for each in found.values() for seconds in each)


def test_a_resumed_study_keeps_its_choice_and_says_if_another_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: list[Any]
) -> None:
    study, results = read.load(STUDY).study, Results(tmp_path / "results")
    results.root.mkdir()
    times += [FAST_PRODUCTS, FAST_PRODUCTS, SLOW_PRODUCTS, SLOW_PRODUCTS]
    kernels.choose(block(), 3, 3, "float32")
    account = Account(study, results)
    results.environment_file.write_text(json.dumps(account.so_far()), encoding="utf-8")
    assert not any("last bits" in note for note in account.notes)

    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "empty"))
    assert not any("last bits" in note for note in Account(study, results).notes)
    kernels.choose(again := block(), 3, 3, "float32")
    assert again[0].products == frozenset(PASSES)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "other"))
    kernels.choose(block(), 3, 3, "float32")
    assert any("other kernels" in note for note in Account(study, results).notes)
    monkeypatch.setattr(kernels, "cpu_name", lambda: "another CPU")
    assert any("continues on another CPU" in note for note in Account(study, results).notes)
