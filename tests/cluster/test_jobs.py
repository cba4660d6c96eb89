"""`ray job submit` to a head whose job server wants a token, with the line that docker/submit.py prints."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.cluster.test_object_stores import answers, free_port
from tests.study.conftest import tune_environment

# What the job server requires beside the package, which `make test` puts beside its environment.
PACKAGES = Path(sys.prefix) / "job-server"
REPOSITORY = Path(__file__).resolve().parent.parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="docker/constraints-jobs.txt is for Linux"),
    pytest.mark.skipif(not PACKAGES.is_dir(), reason="needs the job server that `make check` installs"),
]
STUDY = """
name: tiny
data: {name: digits, normal_classes: [3], max_train_images: 48, max_test_images: 40}
model: {base_channels: 2}
train: {epochs: 2, batch_size: 16, precision: float32}
evaluate: {every: 2, max_images: 20}
references: [nearest_neighbour]
"""
LONG = [
    word
    for setting in ("name=long", "train.epochs=60", "seeds=[0, 1, 2]", "max_concurrent=1")
    for word in ("--set", setting)
]


@dataclass
class Head:
    """A head that runs, and what a user beside it has."""

    folder: Path
    port: int

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a user who has the token."""
        return (
            tune_environment()
            | {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.port}",
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(PACKAGES),
                "HOME": str(self.folder / "home"),
            }
            | more
        )

    def run(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of a user in the checkout."""
        return subprocess.run(
            command,
            shell=True,
            cwd=REPOSITORY,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def line(self, *arguments: str) -> str:
        """Return the line for the job server that is printed for the study and arguments of tune."""
        command = shlex.join(["python", "docker/submit.py", "--encode", str(self.folder / "study.yaml"), *arguments])
        done = self.run(command)
        assert done.returncode == 0, done.stderr
        (line,) = [row for row in done.stdout.splitlines() if "ray job submit" in row]
        return line


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Ray's sockets want a short path.
    folder = Path(os.path.realpath("/tmp")) / f"puzzle_jobs_{os.getpid()}"
    (folder / "home").mkdir(parents=True, mode=0o700)
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(secrets.token_hex(32), encoding="utf-8")
    made = Head(folder, free_port())
    command = (
        "ray start --head --block --num-cpus 2 --node-ip-address 127.0.0.1 --include-dashboard true "
        f"--dashboard-host 127.0.0.1 --dashboard-port {made.port} --port {free_port()} "
        f"--object-store-memory 80000000 --temp-dir {folder}/ray"
    )
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            shlex.split(command),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=made.environment(),
            start_new_session=True,
            executable=shutil.which("ray", path=made.environment()["PATH"]),
        )
    try:
        end = time.monotonic() + 120
        # The server listens before the agent that starts jobs has come up.
        while not answers(made.port) or made.run("ray job submit -- true").returncode != 0:
            assert process.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < end, (folder / "head.log").read_text()
            time.sleep(0.2)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_who_has_another_token_is_refused(head: Head, tmp_path: Path) -> None:
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(secrets.token_hex(32), encoding="utf-8")
    done = head.run(head.line(), RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert done.returncode != 0
    assert "token" in done.stderr
    assert "trials 1/" not in done.stdout


def test_a_hostile_setting_is_refused_and_run_by_no_shell(head: Head) -> None:
    done = head.run(head.line("--set", f"name=x; touch {head.folder}/owned"))
    assert done.returncode == 1
    assert "`name`" in done.stdout
    assert not (head.folder / "owned").exists()


def test_a_submitted_study_is_stopped_and_goes_on_with_resume_to_its_report(head: Head) -> None:
    results = head.folder / "a folder with blanks"
    arguments = ("--set", f"storage={results}", *LONG)
    submitted = head.line(*arguments).replace(" -- ", " --no-wait --submission-id long -- ")
    assert head.run(submitted).returncode == 0
    end = time.monotonic() + 120
    while not (before := records(results / "long")):
        assert time.monotonic() < end, head.run("ray job logs long").stdout
        time.sleep(0.1)
    assert head.run("ray job stop long").returncode == 0
    assert "--resume" in head.run("ray job logs long").stdout
    assert not (results / "long" / "report").exists()
    done = head.run(head.line(*arguments, "--resume"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(pd.read_csv(results / "long" / "trials.csv").status) == ["finished"] * 4
    assert (results / "long" / "report" / "index.html").exists()
    assert before.items() <= records(results / "long").items()


def records(results: Path) -> dict[str, bytes]:
    """Return what is written of finished trials."""
    return {path.name: path.read_bytes() for path in (results / "records").glob("*.json")}
