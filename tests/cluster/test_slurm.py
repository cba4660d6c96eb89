"""docker/slurm.sh with stand-ins for Slurm, Ray and Python, which write down how they were called."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "docker" / "slurm.sh"
NODES = 3
# The trap comes first: a node that was left behind would hold the job's output open.
SRUN = f"""
trap 'kill $(jobs -p); exit' TERM
for i in $(seq 0 {NODES - 1}); do SLURM_PROCID=$i "${{@:2}}" & done
wait
"""
RAY = """
echo "$(date +%N) ray $* token=$RAY_AUTH_TOKEN threads=${OMP_NUM_THREADS-unset}" >> "$CALLS"
if [ "$1" = start ]; then exec sleep 60; fi
"""
PYTHON = """
case "$1" in
  -c) echo 0123abcd ;;
  -) cat > /dev/null ;;
  *) echo "python $*" >> "$CALLS"; eval "$STUDY" ;;
esac
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux" or shutil.which("bash") is None, reason="needs bash on Linux")


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a job's batch script."""
    for name, text in (
        ("srun", SRUN),
        ("ray", RAY),
        ("python", PYTHON),
        ("scontrol", 'echo "scontrol $*" >> "$CALLS"'),
    ):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PUZZLE_PYTHON": str(tmp_path / "bin" / "python"),
        "CALLS": str(tmp_path / "calls"),
        "STUDY": "exit 0",
        "SLURM_JOB_ID": str(4_000_000 + os.getpid()),
        "SLURM_JOB_NUM_NODES": str(NODES),
        "SLURM_CPUS_PER_TASK": "4",
        "OMP_NUM_THREADS": "4",
    }


def calls(job: dict[str, str], word: str) -> list[str]:
    path = Path(job["CALLS"])
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line for line in lines if re.search(rf"\b{word}\b", line)]


def test_a_job_is_a_head_and_workers_with_a_token_and_ends_with_the_studys_exit_code(job: dict[str, str]) -> None:
    waits = f'until [ "$(grep -c "ray start" "$CALLS")" = {NODES} ]; do :; done; exit 2'
    done = subprocess.run(
        [SCRIPT, "my study.yaml", "--set", "storage=/shared/a b"], env=job | {"STUDY": waits}, timeout=60, check=False
    )
    assert done.returncode == 2
    started = calls(job, "start")
    head = [line for line in started if "--head" in line]
    assert (len(head), len(started)) == (1, NODES)
    port = re.search(r"--port=(\d+)", head[0])
    assert port is not None
    assert all(f":{port[1]} " in line for line in started if line not in head)
    for line in started:
        assert "--num-cpus=4 --num-gpus=0" in line
        assert line.endswith("token=0123abcd threads=unset")
    (study,) = calls(job, "puzzle_study.tune")
    assert re.search(r"tune my study\.yaml --set storage=/shared/a b --resume --address \S+:" + port[1], study)
    assert not Path(f"/tmp/puzzle_{job['SLURM_JOB_ID']}").exists()
    assert calls(job, "scontrol") == []


@pytest.mark.parametrize(("code", "queued"), [(143, 1), (0, 0)])
def test_a_job_at_its_time_limit_stops_the_study_and_queues_again_if_it_is_not_done(
    code: int, queued: int, job: dict[str, str]
) -> None:
    until_told = f"trap 'exit {code}' TERM; echo ready; while :; do :; done"
    with subprocess.Popen(
        [SCRIPT, "study.yaml"], env=job | {"STUDY": until_told}, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)
    assert running.returncode == code
    assert len(calls(job, "requeue")) == queued


def test_outside_of_a_job_it_says_how_it_is_used(job: dict[str, str]) -> None:
    del job["SLURM_JOB_ID"]
    done = subprocess.run([SCRIPT, "study.yaml"], env=job, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr
