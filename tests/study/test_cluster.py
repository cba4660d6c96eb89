"""Ray on one machine: on loopback, with a private temporary folder and a token."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from puzzle_study import config
from puzzle_study.errors import UserError
from puzzle_study.study.cluster import check_resources
from tests.study.conftest import tune_command, tune_environment

SESSION = """
import json, os, stat, sys
from pathlib import Path
from puzzle_study import config
from puzzle_study.study.cluster import local_ray
with local_ray(config.Resources()):
    import ray
    ray.get(ray.remote(lambda: 0).remote())
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    root = session.parent.parent
    print(json.dumps({"mode": stat.S_IMODE(root.stat().st_mode), "root": str(root)}))
print(json.dumps({"left": root.exists()}))
"""


def is_loopback(address: str) -> bool:
    """Whether an address is on the loopback, IPv4 within IPv6 included (which Python 3.10 does not count)."""
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def listeners(process: psutil.Process) -> list[str]:
    """Addresses on which a process and what it started listen."""
    found = []
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [c.laddr.ip for c in one.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN]
    return found


def test_every_listener_of_a_running_study_is_on_loopback_and_wants_a_token(tiny: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        tune_command(tiny, "--results", tmp_path / "results", "--set", "train.epochs=5000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=tune_environment(),
    )
    try:
        end = time.monotonic() + 120
        while not any((tmp_path / "results" / "tiny").glob("checkpoints/*/epoch-*.pt")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.1)
        driver = psutil.Process(process.pid)
        found = listeners(driver)
        assert found, "Ray listens nowhere: this test looks at the wrong processes"
        assert [address for address in found if not is_loopback(address)] == []
        server = next(one for one in driver.children(recursive=True) if "gcs_server" in one.name())
        environment = server.environ()
        assert environment["RAY_AUTH_MODE"] == "token"
        assert len(environment["RAY_AUTH_TOKEN"]) == 64
    finally:
        process.kill()
        process.communicate()


def test_rays_folder_is_private_and_removed() -> None:
    done = subprocess.run([sys.executable, "-c", SESSION], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    during, after = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert during["mode"] == 0o700
    assert after == {"left": False}


def test_a_trial_that_no_node_can_run_is_refused_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"resources\.gpu asks for 2 GPUs a trial, but there are 1; lower it"):
        check_resources(config.Resources(gpu=2.0), {"CPU": 8.0, "GPU": 1.0})
    check_resources(config.Resources(gpu=0.25), {"CPU": 8.0, "GPU": 1.0})
