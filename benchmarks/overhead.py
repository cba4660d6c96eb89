"""``python -m benchmarks.overhead study``: what a study costs beside its trials.

It runs trivial trials on Ray and the same trials in a plain loop: seconds a trial of both, and how long it takes until
the first trial runs. ``python -m benchmarks.driver`` has what the driver alone costs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import click
import torch

from benchmarks.driver import TRIVIAL
from puzzle_study.config import read
from puzzle_study.detectors.devices import claim_cpus
from puzzle_study.results import Results
from puzzle_study.study.engine import make_plan
from puzzle_study.study.plan import Plan
from puzzle_study.trials import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure what a study costs beside its trials."""


@main.command()
@click.option("--trials", default=64, show_default=True, help="How many trials.")
@click.option("--loop/--no-loop", default=True, show_default=True, help="Whether the plain loop is measured too.")
def study(trials: int, loop: bool) -> None:
    """Trivial trials one after the other: on Ray, and in a plain loop of this process."""
    with tempfile.TemporaryDirectory() as folder:
        file, results = Path(folder) / "overhead.yaml", Results(Path(folder) / "study" / "overhead")
        content = TRIVIAL.format(name="overhead", seeds=list(range(trials))) + "max_concurrent: 1\n"
        file.write_text(content, encoding="utf-8")
        plan = make_plan(read.load(file), Results(Path(folder) / "loop"))
        started = time.time()
        command = [sys.executable, "-m", "puzzle_study.tune", str(file), "--results", str(results.root.parent)]
        subprocess.run(
            [*command, "--quiet"], check=True, env=os.environ | {"COLUMNS": "200"}, stdout=subprocess.DEVNULL
        )
        ended = time.time()
        begun = min(first_line_at(path) for path in results.logs.glob("*.log"))
        written = sorted(path.stat().st_mtime for path in results.root.glob("records/*.json"))
        assert len(written) == trials
        # The first trial imports PyTorch in its worker; what every further one costs is the question.
        on_ray = (written[-1] - written[0]) / max(1, trials - 1)
        click.echo(f"{trials} trials on Ray, one at a time: {on_ray:.3f} s a trial after the first")
        click.echo(f"start to first trial running {begun - started:.1f} s, its end after {written[0] - started:.1f} s")
        click.echo(f"last trial to end of the command (tables, report) {ended - written[-1]:.1f} s")
        if loop:
            alone = in_a_loop(plan)
            click.echo(f"the same in a loop of one process: {alone:.3f} s a trial after the first")
            click.echo(f"overhead of the study: {on_ray - alone:.3f} s a trial")


def first_line_at(log: Path) -> float:
    """Return when the first line of a log was written."""
    stamp = log.read_text(encoding="utf-8").split(" INFO")[0]
    return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def in_a_loop(plan: Plan) -> float:
    """Run a plan's trials one after the other; returns seconds a trial, the first left out."""
    claim_cpus(1)
    ends = []
    while (spec := plan.take()) is not None:
        plan.done(spec.key, run.run(spec, plan.results, device=torch.device("cpu")))
        ends.append(time.perf_counter())
    return (ends[-1] - ends[0]) / max(1, len(ends) - 1)


if __name__ == "__main__":
    main()
