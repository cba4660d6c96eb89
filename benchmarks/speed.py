"""``python -m benchmarks.speed train|score|attack|study|concurrent|fused``: what a machine can do, and what is done.

The first three measure ours against the reference, in turn, within one run. Each prints the median ratio with its
spread, images a second, multiply-adds an image, the machine's measured convolution peak, and the fraction of the floor
that ours reaches: multiply-adds that must be done, over that peak. The reference has a process of its own, without what
ours sets there, and waits while ours is measured.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, get_args

import click
import torch
from torch import Tensor

from benchmarks.machine import convolution_peak, peak_memory_gib, synchronise
from benchmarks.reference import Reference, multiply_adds
from puzzle_study.config import Reading
from puzzle_study.detectors.base import Context, Run, Shape
from puzzle_study.detectors.devices import Precision, claim_cpus, default_device, dtype_of, resolve_precision
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector
from puzzle_study.detectors.puzzle_ae.fused import train_together
from puzzle_study.detectors.puzzle_ae.networks import Discriminator, UNet
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.puzzle_ae.training import Trainer

UNET_PASSES, DISCRIMINATOR_PASSES = 5, 7
ATTACK_STEPS = 4
PRECISIONS = click.Choice(get_args(Precision))
# Within which all of several trainings are warm; one that fails leaves the others waiting for it so long.
START_SECONDS = 300


@dataclass(frozen=True)
class Setting:
    """A size at which speed is measured."""

    channels: int
    side: int
    base: int
    batch: int

    def images(self, device: torch.device) -> int:
        """How many images one measurement takes."""
        return self.batch * (1 if self.base == 64 and device.type == "cpu" else 8)


SETTINGS = {
    "mnist": Setting(1, 28, 64, 128),
    "cifar10": Setting(3, 32, 64, 128),
    "mvtec": Setting(3, 128, 64, 8),
    "digits": Setting(1, 16, 8, 32),
}

WORK: dict[str, Callable[[Reference, Tensor], object]] = {
    "train": lambda reference, data: reference.train(data),
    "score": lambda reference, data: reference.score(data),
    "attack": lambda reference, data: reference.attack(data, ATTACK_STEPS),
}


@dataclass(frozen=True)
class Pair:
    """Ours and the reference on the same images: seconds, and the convolution peak just before."""

    ours: float
    reference: float
    peak: float


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure speed. Example: python -m benchmarks.speed train --setting mnist --precision bfloat16"""


def options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that the paired measurements share."""
    for option in (
        click.option("--setting", type=click.Choice(list(SETTINGS)), default="mnist", show_default=True),
        click.option("--precision", type=PRECISIONS, default="float32", show_default=True),
        click.option("--pairs", default=5, show_default=True, help="How often both are measured."),
        click.option("--images", type=int, help="Images a measurement; default: a batch or some, for attacks few."),
        click.option("--threads", default=1, show_default=True, help="CPU threads."),
    ):
        function = option(function)
    return function


@main.command()
@options
def train(setting: str, precision: Precision, pairs: int, images: int | None, threads: int) -> None:
    """Training steps, whole batches."""
    size, device = _prepare(setting, threads)
    count = images or size.images(device)
    data = _images(size, count).to(device)
    trainer = _trainer(size, device, precision)
    work = UNET_PASSES * _unet(size) + DISCRIMINATOR_PASSES * _discriminator(size)
    with _reference("train", setting, count, threads) as reference:
        measured = _measure(lambda: trainer.epoch(data), reference, pairs, device, precision)
    _print(f"train {setting} {precision}", measured, count, work, device)


@main.command()
@options
def score(setting: str, precision: Precision, pairs: int, images: int | None, threads: int) -> None:
    """Error matrices of all 23 permutations."""
    size, device = _prepare(setting, threads)
    count = images or size.images(device)
    data = _images(size, count).to(device)
    detector = _detector(size, device, precision)
    with _reference("score", setting, count, threads) as reference:
        measured = _measure(lambda: detector.error_matrix(data), reference, pairs, device, precision)
    _print(f"score {setting} {precision}", measured, count, 23 * _unet(size), device)


@main.command()
@options
def attack(setting: str, precision: Precision, pairs: int, images: int | None, threads: int) -> None:
    """attack1 by PGD through all 23 permutations, with the scores before and after it."""
    from puzzle_study.attacks.running import run_attacks
    from puzzle_study.attacks.specs import attack_spec

    size, device = _prepare(setting, threads)
    count = images or max(1, size.images(device) // 32)
    data = _images(size, count)
    detector = _detector(size, device, precision)
    detector.calibrate(data)
    spec = attack_spec("attack1", "pgd", epsilon=0.1, steps=ATTACK_STEPS)
    labels = torch.zeros(count, dtype=torch.bool)
    validation = detector.scores(detector.validation_NK)
    with _reference("attack", setting, count, threads) as reference:
        measured = _measure(
            lambda: run_attacks(detector, data, labels, validation, [spec], compare=False),
            reference,
            pairs,
            device,
            precision,
        )
    # Forward and input gradient a step; forward for the clean, the returned, the kept and the rounded images.
    work = 23 * (2 * ATTACK_STEPS + 4) * _unet(size)
    _print(f"attack1-PGD{ATTACK_STEPS} {setting} {precision}", measured, count, work, device)


@main.command()
@click.option("--setting", type=click.Choice(list(SETTINGS)), default="mnist", show_default=True)
@click.option("--precision", type=PRECISIONS, default="bfloat16", show_default=True)
@click.option("--trials", multiple=True, type=int, default=(1, 2, 4, 8), show_default=True, help="How many at once.")
@click.option("--seconds", default=20.0, show_default=True, help="How long each number of trials is measured.")
def concurrent(setting: str, precision: Precision, trials: tuple[int, ...], seconds: float) -> None:
    """Images a second of several trainings at once on one GPU, or of one CPU thread each."""
    _prepare(setting, 1)
    context = multiprocessing.get_context("spawn")
    for count in trials:
        ready, rates = context.Barrier(count), context.SimpleQueue()
        arguments = (setting, precision, seconds, ready, rates)
        processes = [context.Process(target=_train_beside, args=arguments, daemon=True) for _ in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode:
                raise click.ClickException(f"a training of {count} ended with exit code {process.exitcode}")
        each = [rates.get() for _ in processes]
        click.echo(
            f"train {setting} {precision}, {count} at once: {sum(each):.2f} images a second, each {_spread(each)}"
        )


@main.command()
@click.option("--setting", type=click.Choice(list(SETTINGS)), default="digits", show_default=True)
@click.option("--precision", type=PRECISIONS, default="float32", show_default=True)
@click.option("--trials", multiple=True, type=int, default=(1, 2, 4, 8), show_default=True, help="How many at once.")
@click.option("--rounds", default=7, show_default=True, help="How often each number is measured, in turn.")
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
def fused(setting: str, precision: Precision, trials: tuple[int, ...], rounds: int, threads: int) -> None:
    """Images a second of several trainings as one network (`resources.fuse`), against one training alone.

    On a CPU seconds are those of the process, so that other programs do not count.
    """
    size, device = _prepare(setting, threads)
    data = _images(size, size.images(device)).to(device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def seconds(count: int) -> float:
        """Return the seconds of an epoch of each of so many trainings, for one of them."""
        trainers = [_trainer(size, device, precision) for _ in range(count)]
        synchronise(device)
        started = clock()
        train_together(trainers, [data] * count, [_OneEpoch()] * count, lambda _: None)
        synchronise(device)
        return (clock() - started) / count

    for count in (1, *trials):
        seconds(count)
    found = {count: [(seconds(1), seconds(count)) for _ in range(rounds)] for count in trials}
    for count, pairs in found.items():
        rates = [len(data) / together for _, together in pairs]
        ratios = [alone / together for alone, together in pairs]
        click.echo(
            f"train {setting} {precision}, {count} fused as one: {_spread(rates)} images a second, "
            f"{_spread(ratios)} times as many as one alone"
        )


class _OneEpoch(Run):
    """Ends a training after its first epoch."""

    def epoch(self, row: dict[str, float], state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        raise _Measured


class _Measured(Exception):
    """The epoch is over."""


@main.command()
@click.option("--trials", default=20, show_default=True, help="Configurations of a digits study.")
def study(trials: int) -> None:
    """Share of a digits study's worker time that is training, evaluation and scoring."""
    from rich.console import Console

    from puzzle_study.config import read
    from puzzle_study.results import Results
    from puzzle_study.study.engine import run_study
    from puzzle_study.trials.record import records

    text = (
        "data: {name: digits, normal_classes: [3]}\nmodel: {base_channels: 8}\n"
        f"train: {{epochs: 40, batch_size: 32}}\nseeds: {list(range(trials))}\nreferences: []\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overhead.yaml"
        path.write_text(text, encoding="utf-8")
        started = time.perf_counter()
        run_study(read.load(path), Path(folder) / "results", resume=False, console=Console(quiet=True))
        wall = time.perf_counter() - started
        found = records(Results(Path(folder) / "results" / "overhead"))
    parts = ("train_seconds", "evaluation_seconds", "score_seconds")
    inside = sum(record.measured[part] for record in found for part in parts)
    whole = sum(record.seconds for record in found)
    click.echo(f"study of {len(found)} trials: {wall:.1f} s wall, {whole / len(found):.2f} s a trial")
    click.echo(f"training, evaluation and scoring: {100 * inside / whole:.1f} % of the trials' time")


def _prepare(setting: str, threads: int) -> tuple[Setting, torch.device]:
    claim_cpus(threads)
    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} thread(s)"
    click.echo(f"{name}, torch {torch.__version__}")
    return SETTINGS[setting], device


def _images(size: Setting, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, size.channels, size.side, size.side), dtype=torch.uint8, generator=generator)


def _trainer(size: Setting, device: torch.device, precision: Precision) -> Trainer:
    train = {"batch_size": size.batch, "feature_loss": "elementwise"}
    settings = PuzzleSettings.model_validate({"model": {"base_channels": size.base}, "train": train})
    shape = Shape(size.channels, size.side, size.side)
    return Trainer(settings, Context(shape, 0, device, resolve_precision(precision, device)))


def _detector(size: Setting, device: torch.device, precision: Precision) -> PuzzleDetector:
    trainer = _trainer(size, device, precision)
    detector = PuzzleDetector(
        trainer.solver,
        trainer.puzzler.puzzles,
        shape=Shape(size.channels, size.side, size.side),
        reading=Reading("mse", "avg"),
        precision=precision,
    )
    return detector.to(device).eval().requires_grad_(False)  # as a loaded one


def _train_beside(
    setting: str, precision: Precision, seconds: float, ready: Barrier, rates: SimpleQueue[float]
) -> None:
    """What one process of several does: train from the moment when all are warm, and put its images a second."""
    claim_cpus(1)
    size, device = SETTINGS[setting], default_device()
    data = _images(size, size.images(device)).to(device)
    trainer = _trainer(size, device, precision)
    trainer.epoch(data)
    ready.wait(START_SECONDS)
    images, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        trainer.epoch(data)
        synchronise(device)
        images += len(data)
    rates.put(images / (time.perf_counter() - started))


@contextmanager
def _reference(work: str, setting: str, images: int, threads: int) -> Iterator[Callable[[], float]]:
    """Start the reference and give what measures its work in seconds."""
    here, there = multiprocessing.Pipe()
    arguments = (there, work, setting, images, threads)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments, daemon=True)
    process.start()

    def measure() -> float:
        here.send(None)
        return float(here.recv())

    there.close()
    try:
        yield measure
    finally:
        process.kill()
        process.join()


def _serve(pipe: Connection, work: str, setting: str, images: int, threads: int) -> None:
    """What the process of the reference does: its work, each time it is told to."""
    torch.set_num_threads(threads)
    size, device = SETTINGS[setting], default_device()
    reference = Reference(
        channels=size.channels, side=size.side, base_channels=size.base, batch_size=size.batch, device=device
    )
    data = _images(size, images)
    while True:
        pipe.recv()
        pipe.send(_timed(lambda: WORK[work](reference, data), device))


def _unet(size: Setting) -> int:
    example = torch.zeros(1, size.channels, size.side, size.side)
    return multiply_adds(UNet(channels=size.channels, base_channels=size.base), example)


def _discriminator(size: Setting) -> int:
    example = torch.zeros(1, size.channels, size.side, size.side)
    network = Discriminator(channels=size.channels, base_channels=size.base, height=size.side, width=size.side)
    return multiply_adds(network, example)


def _timed(action: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    action()
    synchronise(device)
    return time.perf_counter() - started


def _measure(
    ours: Callable[[], object],
    reference: Callable[[], float],
    pairs: int,
    device: torch.device,
    precision: Precision,
) -> list[Pair]:
    """Warm both up, then measure them in turn."""
    dtype = dtype_of(precision)
    ours()
    reference()
    return [Pair(_timed(ours, device), reference(), convolution_peak(device, dtype)) for _ in range(pairs)]


def _print(title: str, measured: list[Pair], images: int, work: int, device: torch.device) -> None:
    ratios = [pair.reference / pair.ours for pair in measured]
    rate = [images / pair.ours for pair in measured]
    floor = [images * work / pair.peak / pair.ours for pair in measured]
    click.echo(f"{title}: {len(measured)} pairs of {images} images")
    click.echo(f"  ratio to the reference  {_spread(ratios)}")
    click.echo(f"  images a second         {_spread(rate)}")
    click.echo(f"  multiply-adds an image  {work / 1e6:.0f} M")
    click.echo(f"  convolution peak        {_spread([pair.peak / 1e9 for pair in measured])} G multiply-adds a second")
    click.echo(f"  fraction of the floor   {_spread(floor)}")
    click.echo(f"  peak memory             {peak_memory_gib(device):.2f} GiB")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    main()
