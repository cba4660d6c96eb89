"""Ray on one machine: on loopback, with a private temporary folder and a token."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys

import pytest

from puzzle_study import config
from puzzle_study.errors import UserError
from puzzle_study.study.cluster import check_resources

LISTENERS = """
import json, os, stat, sys
from pathlib import Path
import psutil
from puzzle_study import config
from puzzle_study.study.cluster import local_ray
with local_ray(config.Resources()):
    import ray
    ray.get(ray.remote(lambda: 0).remote())
    found = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        found += [c.laddr.ip for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN]
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    root = session.parent.parent
    print(json.dumps({"listeners": found, "mode": stat.S_IMODE(root.stat().st_mode), "root": str(root)}))
print(json.dumps({"left": root.exists()}))
"""


def is_loopback(address: str) -> bool:
    """Whether an address is on the loopback, IPv4 within IPv6 included (which Python 3.10 does not count)."""
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def test_every_listener_of_ray_is_on_loopback_and_its_folder_is_private_and_removed() -> None:
    done = subprocess.run([sys.executable, "-c", LISTENERS], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    during, after = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert during["listeners"], "Ray listens nowhere: this test looks at the wrong processes"
    assert [address for address in during["listeners"] if not is_loopback(address)] == []
    assert during["mode"] == 0o700
    assert after == {"left": False}


def test_a_trial_that_no_node_can_run_is_refused_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"resources\.gpu asks for 2 GPUs a trial, but there are 1; lower it"):
        check_resources(config.Resources(gpu=2.0), {"CPU": 8.0, "GPU": 1.0})
    check_resources(config.Resources(gpu=0.25), {"CPU": 8.0, "GPU": 1.0})
