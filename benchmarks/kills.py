"""``python -m benchmarks.kills --kills 20``: a study killed at random moments must end as if nobody had touched it.

Runs a small study undisturbed, then again while a worker or the driver is killed with SIGKILL at random moments, the
driver being started again with ``--resume``. Prints what each kill cost and whether tables and error matrices are the
same to the bit.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import pandas as pd
import psutil

STUDY = """
name: kills
data: {{name: digits, normal_classes: [1, 3, 8]}}
model: {{base_channels: 4}}
train: {{epochs: {epochs}, batch_size: 32, precision: float32}}
evaluate: {{every: 5, max_images: 100}}
references: []
seeds: {seeds}
search:
  configurations: {configurations}
  space:
    train.lambda: {{log_uniform: [0.001, 0.1]}}
    score.aggregation: {{choice: [min, avg, max]}}
"""
CLASSES = 3
CLOCK = ["seconds", "train_seconds", "evaluation_seconds", "score_seconds", "images_per_second"]
EPOCH = re.compile(r" INFO epoch (\d+),")
WORKER = re.compile(r"^ray::(ImplicitFunc|_trainable)")


@dataclass
class Costs:
    """What was seen while a study was killed."""

    drivers: int = 0
    workers: int = 0
    running: int = 0
    """Trials that had begun and were not finished, summed over the kills: so many epochs may be cut short."""
    records: dict[str, int] = field(default_factory=dict)
    """When each record that was there at a kill had been written."""

    @property
    def kills(self) -> int:
        """How often something was killed."""
        return self.drivers + self.workers


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kills", default=20, show_default=True, help="How often a worker or the driver is killed.")
@click.option("--trials", type=click.IntRange(6), default=24, show_default=True, help="Trials, a multiple of six.")
@click.option("--epochs", default=15, show_default=True, help="Epochs of a trial.")
@click.option("--pause", default=3.0, show_default=True, help="Longest wait before a kill, in seconds.")
@click.option("--seed", default=0, show_default=True, help="Seed of moments and victims.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work; default: a folder that is removed.")
def main(kills: int, trials: int, epochs: int, pause: float, seed: int, folder: Path | None) -> None:
    """Kill a study at random moments and compare it with one that was left alone."""
    with tempfile.TemporaryDirectory() as temporary:
        if not measure(folder or Path(temporary), kills, trials, epochs, pause, seed):
            sys.exit(1)


def measure(folder: Path, kills: int, trials: int, epochs: int, pause: float, seed: int) -> bool:
    """Run both studies and print what was lost; returns whether nothing was."""
    folder.mkdir(parents=True, exist_ok=True)
    study = folder / "kills.yaml"
    seeds = [0, 1] if trials >= 24 else [0]
    configurations = trials // (CLASSES * len(seeds)) - 1
    study.write_text(STUDY.format(epochs=epochs, seeds=seeds, configurations=configurations), encoding="utf-8")
    started = time.monotonic()
    code = start(study, folder / "undisturbed").wait()
    click.echo(
        f"undisturbed: {trials} trials of {epochs} epochs in {time.monotonic() - started:.0f} s, exit code {code}"
    )
    if code != 0:
        return False
    started = time.monotonic()
    costs, code = disturbed(study, folder / "killed", trials, kills, pause, seed)
    click.echo(
        f"killed: {costs.kills} times ({costs.workers} workers, {costs.drivers} drivers) "
        f"in {time.monotonic() - started:.0f} s, exit code {code}"
    )
    return report(folder / "undisturbed" / "kills", folder / "killed" / "kills", costs, kills) and code == 0


def start(study: Path, results: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start a study as a user does."""
    command = [sys.executable, "-m", "puzzle_study.tune", str(study), "--results", str(results), "--quiet", *more]
    return subprocess.Popen(command, start_new_session=True, env=os.environ | {"COLUMNS": "200"})


def disturbed(study: Path, results: Path, trials: int, kills: int, pause: float, seed: int) -> tuple[Costs, int]:
    """Run a study to its end while killing; returns what it cost and the last exit code.

    Kills are spread over the study: each waits until a number of trials that was drawn beforehand is finished, then
    until one is running, since starting Ray takes longer than a trial, and then for a random time.
    """
    rng, costs, root = random.Random(seed), Costs(), results / "kills"
    moments = sorted(rng.uniform(0, trials - 2) for _ in range(kills))
    process = start(study, results)
    try:
        for moment in moments:
            wait, wants_driver = rng.uniform(0, pause), rng.random() < 0.5
            while process.poll() is None and (len(finished(root)) < int(moment) or not workers(process.pid)):
                time.sleep(0.05)
            end = time.monotonic() + wait
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            if process.poll() is not None:
                break
            there = finished(root)
            victims = [] if wants_driver else workers(process.pid)
            costs.running += sum(path.name not in there for path in root.glob("checkpoints/*"))
            costs.records = there | costs.records
            if victims:
                rng.choice(victims).kill()
                costs.workers += 1
            else:
                process.kill()
                process.wait()
                costs.drivers += 1
                process = start(study, results, "--resume")
        return costs, process.wait()
    finally:
        process.kill()
        process.wait()


def finished(root: Path) -> dict[str, int]:
    """Return when the record of each finished trial was written."""
    return {path.stem: path.stat().st_mtime_ns for path in root.glob("records/*.json")}


def workers(driver: int) -> list[psutil.Process]:
    """Return the processes in which trials run now; Ray names them after what they do."""
    try:
        children = psutil.Process(driver).children(recursive=True)
        return [child for child in children if WORKER.match(" ".join(child.cmdline()))]
    except psutil.Error:  # one of them ended meanwhile
        return []


def report(undisturbed: Path, killed: Path, costs: Costs, kills: int) -> bool:
    """Print what was lost and what differs; returns whether all is as it must be."""
    again = [
        name
        for name, written in costs.records.items()
        if (killed / "records" / f"{name}.json").stat().st_mtime_ns != written
    ]
    twice = sum(
        count - 1
        for log in (killed / "logs").glob("*.log")
        for count in Counter(EPOCH.findall(log.read_text(encoding="utf-8"))).values()
    )
    same = equal_to_the_bit(undisturbed, killed)
    click.echo(f"finished trials that were run again: {len(again)} of {len(costs.records)} that were there at a kill")
    click.echo(f"epochs that were finished and run again: {twice}")
    click.echo(f"epochs cut short: at most {costs.running}, one for each trial that was running at a kill")
    click.echo("equal to the bit: " + ", ".join(f"{name} {'yes' if equal else 'NO'}" for name, equal in same.items()))
    if costs.kills < kills:
        click.echo(f"the study was over after {costs.kills} of {kills} kills; raise --epochs or lower --pause")
    return not again and twice <= costs.running and all(same.values()) and costs.kills == kills


def equal_to_the_bit(one: Path, other: Path) -> dict[str, bool]:
    """Return for each kind of result of two studies whether it is the same, apart from columns of times."""
    tables = ("trials.csv", "summary.csv", "epochs.parquet")
    return {
        **{name: _same_table(one / name, other / name) for name in tables},
        "error matrices": _same_errors(one, other),
    }


def _same_table(one: Path, other: Path) -> bool:
    frames = [pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path) for path in (one, other)]
    plain = [frame.drop(columns=[name for name in CLOCK if name in frame]) for frame in frames]
    return bool(plain[0].equals(plain[1]))


def _same_errors(one: Path, other: Path) -> bool:
    names = [sorted(path.name for path in (root / "errors").glob("*.npz")) for root in (one, other)]
    if names[0] != names[1] or not names[0]:
        return False
    for name in names[0]:
        with np.load(one / "errors" / name) as mine, np.load(other / "errors" / name) as theirs:
            if mine.files != theirs.files or any(mine[key].tobytes() != theirs[key].tobytes() for key in mine.files):
                return False
    return True


if __name__ == "__main__":
    main()
