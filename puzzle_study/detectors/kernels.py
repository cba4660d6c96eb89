"""Convolutions on a CPU, by the kernels that are the fastest there: measured once on each machine, and kept.

oneDNN's convolutions are far from the CPU's peak on maps of a few pixels, and how far depends on the CPU. A matrix
product over the columns of the maps (im2col) gives the same sums. Only wide convolutions are measured: in narrow ones
the calls take the time. A choice is kept in the cache folder and never changes there, so one machine gives the same
bits each time. The last bits differ between choices.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import Tensor

from puzzle_study.datasets import cache
from puzzle_study.detectors.convolution import PASSES, Convolution, Pass, direct_passes, product_passes
from puzzle_study.detectors.devices import Precision, dtype_of
from puzzle_study.io import replacing

log = logging.getLogger(__name__)

FORMAT = 1
"""Increase it if choices of before should be measured again."""
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
# Another way is chosen if it is at least this many times as fast.
MARGIN = 1.1
# Fewest weights of one kernel position for which a convolution is measured.
WIDE = 128 * 128
# Multiply-adds of a measurement, within bounds on the images; training batches have 32 to 128.
WORK, FEWEST_IMAGES, MOST_IMAGES = 5 * 10**8, 16, 128
ROUNDS = 3
# After one round, a way that takes this many times the best is not measured again.
HOPELESS = 2.0


def choose(block: Sequence[Convolution], height: int, width: int, precision: Precision) -> None:
    """Give convolutions that follow each other the layout and the kernels that are the fastest on this CPU.

    Narrow ones stay as they are. All do if the cache folder cannot be written, because a choice must not change.

    Args:
        block: on the CPU, in a layout, which they keep unless another is clearly faster.
        height: of their maps, in pixels.
        width: likewise.
        precision: arithmetic.
    """
    if any(each.in_channels * each.out_channels < WIDE for each in block):
        return
    layout = "channels_last" if block[0].weight.is_contiguous(memory_format=torch.channels_last) else "contiguous"
    sizes = tuple((each.in_channels, each.out_channels, each.kernel_size[0]) for each in block)
    threads = torch.get_num_threads()
    choice = _choice(_file(threads), sizes, height, width, precision, layout, threads)
    if choice is None:
        return
    for each, products in zip(block, choice["products"], strict=True):
        each.to(memory_format=LAYOUTS[choice["layout"]])  # type: ignore[call-overload]  # missing from PyTorch's stubs
        each.products = frozenset(products)


def chosen(threads: int) -> dict[str, Any]:
    """Return what has been chosen on this machine for trainings with so many threads, as plain values."""
    return {"machine": machine(), "threads": threads, "choices": _read(_file(threads))}


def adopt(before: Mapping[str, Any], threads: int) -> bool:
    """Keep what a study chose on this machine, if the cache has lost it; return whether another choice was made since.

    Args:
        before: of an earlier :func:`chosen`.
        threads: of the study's trainings.
    """
    if (before.get("machine"), before.get("threads")) != (machine(), threads):
        return False
    path, choices = _file(threads), _sound(before.get("choices"))
    if choices.keys() - _read(path).keys():
        with contextlib.suppress(OSError), _locked(path):
            _write(path, choices | _read(path))
    now = _read(path)
    return any(now.get(name, choice) != choice for name, choice in choices.items())


def machine() -> str:
    """Return what the speed and the last bits of convolutions depend on here, besides the number of threads."""
    able = sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    able += [torch.backends.cpu.get_cpu_capability(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")]
    return f"{cpu_name()} ({_short(able)}), torch {torch.__version__}"


def cpu_name() -> str:
    """Return the CPU's name."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine())


def _short(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]


def _file(threads: int) -> Path:
    return cache.folder() / "kernels" / f"{_short([FORMAT, machine(), threads])}.json"


def _locked(path: Path) -> filelock.FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(path.with_suffix(".lock"))


def _read(path: Path) -> dict[str, Any]:
    try:
        return _sound(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return {}


def _sound(choices: Any) -> dict[str, Any]:
    """Return those of some choices that can be followed; a file may be damaged."""
    with contextlib.suppress(AttributeError, TypeError, KeyError):
        return {
            name: {"layout": choice["layout"], "products": choice["products"]}
            for name, choice in choices.items()
            if choice["layout"] in LAYOUTS and all(set(each) <= set(PASSES) for each in choice["products"])
        }
    return {}


def _write(path: Path, choices: Mapping[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(choices, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@lru_cache(maxsize=256)
def _choice(
    path: Path,
    sizes: tuple[tuple[int, int, int], ...],
    height: int,
    width: int,
    precision: Precision,
    layout: str,
    threads: int,
) -> dict[str, Any] | None:
    """Return a block's choice, which is measured first if this machine has none; None if it cannot be stored.

    If several processes need the same choice, one measures and the others wait for it.
    """
    shown = ", ".join(f"{inputs}->{outputs} {kernel}x{kernel}" for inputs, outputs, kernel in sizes)
    name = f"{shown} on {height}x{width}, {precision}, else {layout}"
    found: dict[str, Any] | None = _read(path).get(name)
    if found is not None:
        return found
    try:
        with _locked(path):
            choices = _read(path)
            if name not in choices:
                choices[name] = decided(
                    [measured(*size, height, width, precision, threads=threads) for size in sizes], layout
                )
                _write(path, choices)
            return dict(choices[name])
    except OSError as error:
        log.info("kernels are not measured: %s cannot be written (%s)", path, error.strerror or error)
        return None


Times = Mapping[str, Sequence[float]]
"""Seconds of each pass, by layout, or ``product `` and the layout."""


def decided(times: Sequence[Times], layout: str) -> dict[str, Any]:
    """Return the layout of convolutions in a row, and which passes of each are matrix products.

    Args:
        times: of each convolution.
        layout: that they keep unless another is clearly faster.
    """

    def products(of: Times, way: str) -> list[Pass]:
        pairs = zip(PASSES, of[way], of[f"product {way}"], strict=True)
        return [each for each, direct, product in pairs if product * MARGIN < direct]

    def seconds(of: Times, way: str) -> float:
        by_product = products(of, way)
        return sum(of[f"product {way}" if each in by_product else way][index] for index, each in enumerate(PASSES))

    total = {way: sum(seconds(of, way) for of in times) for way in LAYOUTS}
    best = min(total, key=lambda way: total[way])
    chosen_layout = best if total[best] * MARGIN < total[layout] else layout
    return {"layout": chosen_layout, "products": [products(of, chosen_layout) for of in times]}


@lru_cache(maxsize=64)
@torch.no_grad()
def measured(
    inputs: int, outputs: int, kernel: int, height: int, width: int, precision: Precision, *, threads: int
) -> Times:
    """Return the least seconds of each pass of a convolution, by each way."""
    work = inputs * outputs * kernel**2 * height * width
    images = min(max(WORK // work, FEWEST_IMAGES), MOST_IMAGES)
    generator, dtype = torch.Generator().manual_seed(0), dtype_of(precision)
    # One thread's own time does not count what other processes take from it.
    clock = time.thread_time if threads == 1 else time.perf_counter
    best: dict[str, list[float]] = {}
    ways: list[tuple[list[float], int, Callable[[], object]]] = []
    for layout, memory_format in LAYOUTS.items():

        def draw(*shape: int, memory_format: torch.memory_format = memory_format) -> Tensor:
            return torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=memory_format)

        x_NCHW, gradient_NOHW = draw(images, inputs, height, width), draw(images, outputs, height, width)
        weight_OCij, bias_O = draw(outputs, inputs, kernel, kernel), torch.zeros(outputs, dtype=dtype)
        for name, passes in (
            (layout, direct_passes(x_NCHW, weight_OCij, bias_O, gradient_NOHW)),
            (f"product {layout}", product_passes(x_NCHW, weight_OCij, bias_O, gradient_NOHW)),
        ):
            best[name] = [float("inf")] * len(PASSES)
            ways += [(best[name], index, action) for index, action in enumerate(passes)]
    for number in range(ROUNDS):
        for seconds, index, action in ways:
            if number > 0 and seconds[index] > HOPELESS * min(each[index] for each in best.values()):
                continue
            started = clock()
            action()
            seconds[index] = min(seconds[index], clock() - started)
    return best
