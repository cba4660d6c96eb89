"""`ray up` and `ray submit` over SSH to two hosts made of network namespaces, where that can be done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.cluster.two_hosts import TwoHosts, missing, two_hosts, wait_for_worker

REASON = missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REASON is not None, reason=f"two hosts cannot be made here: {REASON}"),
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    """A cluster of two hosts that was started with docker/cluster-local.yaml."""
    folder = Path(tempfile.mkdtemp(prefix="two_hosts_"))
    try:
        with two_hosts(folder) as made:
            for command in ("python docker/submit.py --token", f"ray up --yes --no-config-cache {made.cluster_file}"):
                done = made.run(command)
                assert done.returncode == 0, done.stdout + done.stderr
            wait_for_worker(made)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_folder_that_the_other_host_does_not_see_and_hostile_arguments_are_refused(hosts: TwoHosts) -> None:
    done = hosts.submit("--set", f"name=x; touch {hosts.folder}/owned", "--set", "storage=/tmp/mine")
    assert done.returncode == 1
    assert "`name`" in done.stdout
    assert not (hosts.folder / "owned").exists()
    done = hosts.submit("--set", "storage=/tmp/mine")
    assert done.returncode == 1
    assert "error: /tmp/mine/tiny is not the same folder on host2" in done.stdout
    assert "trials 1/" not in done.stdout


def test_a_submitted_study_runs_on_both_hosts_to_its_report(hosts: TwoHosts) -> None:
    done = hosts.submit("--set", f"storage={hosts.folder}/results")
    assert done.returncode == 0, done.stdout + done.stderr
    results = hosts.folder / "results" / "tiny"
    assert list(pd.read_csv(results / "trials.csv").status) == ["finished"] * 3
    assert (results / "report" / "index.html").exists()
    assert (hosts.folder / "home" / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
