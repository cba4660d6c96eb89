"""The numeric tests on other machines: PyTorch and oneDNN can be told to do without instructions that this CPU has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NUMERIC = ("adversary", "golden", "networks", "puzzles", "scoring", "training_step")


@pytest.mark.slow
@pytest.mark.parametrize(
    "machine",
    [
        # PyTorch reports the same capability as without it, and the last bits differ.
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "default"},
    ],
)
def test_the_numeric_tests_pass_on_another_cpu(machine: dict[str, str]) -> None:
    files = [str(HERE / f"test_{name}.py") for name in NUMERIC]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=HERE.parents[1],
        env=os.environ | machine,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
