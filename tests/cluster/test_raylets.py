"""Studies on several raylets of this machine, disturbed, with their numbers held against undisturbed ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.study.conftest import finish_here, start_process, tune_command, tune_environment, wait_until
from tests.study.test_end_to_end import assert_same_tables

pytestmark = pytest.mark.slow

STUDY = """
name: tiny
data: {name: digits, normal_classes: [3], max_train_images: 48, max_test_images: 40}
model: {base_channels: 2}
train: {epochs: 80, batch_size: 16, precision: float32}
evaluate: {every: 40, max_images: 20}
seeds: [0, 1, 2]
references: [nearest_neighbour]
attacks: {configurations: [winner], methods: [fgsm], epsilons: [0.1], max_images: 10}
"""

# A head without CPUs and one node of one, with a GPU that is not there. When told to, a second comes, and then the
# first goes as by a pulled plug.
CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80_000_000,
                                                        "include_dashboard": False, "temp_dir": sys.argv[1]})
first = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80_000_000)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
cluster.wait_for_nodes()
print("added", flush=True)
sys.stdin.readline()
cluster.remove_node(first, allow_graceful=False)
print("removed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


class Cluster:
    """A cluster in a process of its own, whose Ray then knows nothing of the tests' other Rays."""

    def __init__(self, folder: Path) -> None:
        token = folder / "token"
        token.write_text("0123456789abcdef" * 4, encoding="utf-8")
        token.chmod(0o644)
        self.token = token
        self.environment = tune_environment() | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(folder),
        }
        self._log = (folder / "cluster.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(folder / "ray")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=self.environment,
        )
        self.address = self._answer()

    def go_on(self) -> str:
        """Let the next thing happen to the cluster, and return what it was."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End what is left of it."""
        try:
            self._process.communicate("\n\n\n", timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._log.close()

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start a study that joins, with its environment changed."""
        return start_process(tune_command(*arguments, "--address", self.address), self.environment | environment)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # Ray's sockets want a short path.
    folder = Path(os.path.realpath("/tmp")) / f"puzzle_raylets_{os.getpid()}"
    folder.mkdir(mode=0o700)
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the study without a cluster, and without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "tiny.yaml").write_text(STUDY, encoding="utf-8")
    return finish_here(folder / "tiny.yaml", folder)[0].root


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str, count: int) -> None:
    """Wait until a running study has left so many files."""
    wait_until(lambda: len(list(folder.glob(pattern))) >= count, process, seconds=200)


def assert_same_numbers(one: Path, other: Path) -> None:
    """Compare tables, and error matrices to the bit."""
    assert_same_tables(one, other)
    trials = pd.read_csv(one / "trials.csv").trial
    assert len(trials) == 4
    for trial in trials:
        with np.load(one / "errors" / f"{trial}.npz") as left, np.load(other / "errors" / f"{trial}.npz") as right:
            for name in ("validation", "pseudo", "test"):
                assert left[name].tobytes() == right[name].tobytes(), (trial, name)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"RAY_AUTH_TOKEN": "f" * 64}, "another token than that of RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "disabled"}, "a token, and RAY_AUTH_MODE turns it off here"),
    ],
)
def test_who_has_not_the_clusters_token_is_refused_at_once(
    environment: dict[str, str], reason: str, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY, encoding="utf-8")
    began = time.monotonic()
    driver = cluster.start(tmp_path / "tiny.yaml", "--results", tmp_path / "results", **environment)
    out, err = driver.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert (driver.returncode, out) == (2, "")
    assert err == (
        f"error: the Ray cluster at {cluster.address} does not let this machine in: it was started with {reason}; "
        f"copy ~/.ray/auth_token from its head, or set RAY_AUTH_MODE as it was set there\n"
    )
    assert not (tmp_path / "results" / "tiny" / "study.yaml").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_pytorch_cannot_use_is_said_before_the_first_trial(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY, encoding="utf-8")
    arguments = (tmp_path / "tiny.yaml", "--set", f"storage={tmp_path / 'shared'}", "--set", "resources.gpu=0.5")
    out, err = cluster.start(*arguments).communicate(timeout=120)
    assert out == ""
    assert re.fullmatch(r"error: resources\.gpu .* on .* sees 0 of 1 GPUs\); .*resources\.gpu=0\n", err)
    assert not (tmp_path / "shared" / "tiny" / "study.yaml").exists()


def test_a_driver_and_its_disk_are_lost_and_the_study_goes_on_from_the_store(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY, encoding="utf-8")
    store = tmp_path / "store" / "tiny"
    arguments = (tmp_path / "tiny.yaml", "--set", f"storage=file://{tmp_path / 'store'}")
    driver = cluster.start(*arguments, "--results", tmp_path / "lost")
    wait_for(driver, store, "records/*.json", 2)
    wait_for(driver, store, "checkpoints/*/epoch-*.pt", 1)
    driver.kill()
    driver.communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in store.glob("records/*.json")}
    shutil.rmtree(tmp_path / "lost")
    driver = cluster.start(*arguments, "--results", tmp_path / "another", "--resume")
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, out + err
    after = {path.name: path.stat().st_mtime_ns for path in store.glob("records/*.json")}
    assert {name: after[name] for name in kept} == kept
    for results in (tmp_path / "another" / "tiny", store):
        assert_same_numbers(undisturbed, results)
        assert (results / "report" / "index.html").exists()
        assert (results / "best" / "3-seed1" / "weights.safetensors").exists()
    assert not any(path.is_file() for path in (store / "checkpoints").rglob("*"))
    assert cluster.token.stat().st_mode & 0o777 == 0o600


def test_a_node_lost_in_mid_study_changes_no_number(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY, encoding="utf-8")
    driver = cluster.start(tmp_path / "tiny.yaml", "--set", f"storage={tmp_path / 'shared'}")
    results = tmp_path / "shared" / "tiny"
    wait_for(driver, results, "checkpoints/*/epoch-*.pt", 1)
    assert cluster.go_on() == "added"
    wait_for(driver, results, "checkpoints/*/epoch-*[1-4][0-9].pt", 1)  # far from the end of a trial of 80
    assert cluster.go_on() == "removed"
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, out + err
    assert err == "", "nothing is said but our own lines"
    logs = [path.read_text(encoding="utf-8") for path in results.glob("logs/*.log")]
    assert any("going on after epoch" in log for log in logs), "no trial was on the node that was lost"
    assert_same_numbers(undisturbed, results)
