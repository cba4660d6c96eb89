"""``python -m benchmarks.golden COMMIT``: whether this checkout computes what a commit did, to the last bit.

For a change that claims to be speed only. Runs the golden run of tests/core/test_golden.py in the commit and in the
working tree, each with its own package, one after the other on this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

ROOT = Path(__file__).parents[1]
RUN = "import sys; from tests.core.test_golden import golden_scores; sys.stdout.buffer.write(golden_scores().tobytes())"


def scores_of(folder: Path) -> np.ndarray:
    """Return the scores of the golden run by the package in a folder, in a process of its own."""
    # Python looks in the current folder before it looks here; what is not there is taken from here.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", RUN], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    return np.frombuffer(done.stdout, np.float32)


def verdict(before: np.ndarray, now: np.ndarray) -> str:
    """Return in words how far apart two golden runs are."""
    if before.tobytes() == now.tobytes():
        return f"equal to the bit: {len(now)} scores"
    if len(before) != len(now):
        return f"different: {len(before)} scores before, {len(now)} now"
    apart = np.abs(now / before - 1)
    return f"different: {np.count_nonzero(before != now)} of {len(now)} scores, by {apart.max():.1e} at most (relative)"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("commit")
def main(commit: str) -> None:
    """Compare the golden run with a commit's. Example: python -m benchmarks.golden main"""
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "commit.tar"
        command = ["git", "archive", f"--output={archive}", commit, "puzzle_study", "tests", "benchmarks"]
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            sys.exit(2)  # git has said why
        shutil.unpack_archive(archive, temporary)
        found = verdict(scores_of(Path(temporary)), scores_of(ROOT))
    click.echo(found)
    sys.exit(not found.startswith("equal"))


if __name__ == "__main__":
    main()
