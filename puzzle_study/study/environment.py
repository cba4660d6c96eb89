"""What a study ran on: versions, git commit, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import puzzle_study
from puzzle_study import config, datasets
from puzzle_study.detectors import kernels
from puzzle_study.detectors.devices import cores, default_device, resolve_precision, threads
from puzzle_study.results import Results

PACKAGES = ("puzzle-study", "torch", "ray", "optuna", "torchattacks", "numpy", "pandas", "scikit-learn", "seaborn")


def notes(study: config.Study) -> list[str]:
    """Return notes on what is unusual about a study's images, in general and for its detectors."""
    of_detectors = [note for own in study.detectors.values() for note in own.notes(study.data.channels)]
    return [*datasets.notes(study.data), *dict.fromkeys(of_detectors)]


class Account:
    """The content of environment.json: what a study runs on, its start, and the total time of its runs."""

    def __init__(self, study: config.Study, results: Results, *, together: int = 1) -> None:
        self._started = time.monotonic()
        before = results.environment()
        self._before = before.get("wall_seconds", 0.0)
        self._threads = threads(study.resources.cpu)
        device = default_device() if study.resources.gpu else torch.device("cpu")
        elsewhere = study.resources.gpu > 0 and device.type == "cpu"  # its GPUs are in other machines of a cluster
        self.notes = notes(study)
        if device.type == "cpu":
            self.notes += _other_numbers(before.get("hardware", {}).get("kernels", {}), self._threads)
        self._hardware: dict[str, Any] = {
            "cpu": kernels.cpu_name(),
            "cores": cores(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            # A GPU that the study does not use cannot affect its numbers.
            "gpu": torch.cuda.get_device_name(0) if device.type == "cuda" else None,
            "precision": {
                name: own.precision_wanted if elsewhere else resolve_precision(own.precision_wanted, device)
                for name, own in study.detectors.items()
            },
            "threads": self._threads,
            # Trials that run as one network at most; it changes the last bits as well.
            "fused": together,
        }
        self._described = {
            "versions": {name: metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "git_commit": git_commit(),
            "seeds": {"search": study.search.seed if study.search else None, "training": list(study.seeds)},
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "started": before.get("started") or _now(),
            "finished": None,
            "wall_seconds": 0.0,
            "notes": self.notes,
        }

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def so_far(self) -> dict[str, Any]:
        """Return the current content, with the total time of all runs and the kernels chosen until now."""
        hardware = self._hardware | {"kernels": kernels.chosen(self._threads)}
        return self._described | {"hardware": hardware, "wall_seconds": self._before + self.seconds()}

    def finished(self) -> dict[str, Any]:
        return self.so_far() | {"finished": _now()}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def git_commit() -> str | None:
    """Return the commit of the package's checkout, marked if files differ from it."""
    here = Path(puzzle_study.__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _other_numbers(before: Mapping[str, Any], count: int) -> list[str]:
    """Return a note if another CPU, PyTorch or choice of kernels changes the last bits since an earlier run."""
    if not before:
        return []
    other = "on the CPU the last bits of new trainings differ"
    if kernels.adopt(before, count):
        return [
            f"since the study began, other kernels were chosen for this CPU in another or an emptied cache: {other}"
        ]
    if before["machine"] != (here := kernels.machine()):
        return [f"the study began on {before['machine']}, and continues on {here}: {other}"]
    return []
