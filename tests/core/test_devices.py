"""What a process does to compute fast, and what it leaves as it was."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Pages that the kernel filled for fifty tensors of 64 MiB, one after the other.
FAULTS = """
import resource, sys, torch
from puzzle_study.devices import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(10):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_memory_that_was_freed_is_used_again_without_the_kernel() -> None:
    def faults(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, timeout=60
        )
        return int(done.stdout)

    assert faults("keep") * 10 < faults("leave")
