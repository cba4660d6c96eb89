"""Ray on one machine is on loopback, with a private folder and a token; a cluster that cannot do is refused."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import stat
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import ray
from click.testing import CliRunner

from puzzle_study import __version__, config
from puzzle_study.config import read
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study import nodes
from puzzle_study.study.nodes import check_gpus, places
from puzzle_study.study.ray import cluster
from puzzle_study.study.ray.cluster import check_nodes, check_resources, package_digest
from puzzle_study.study.storage import Place
from puzzle_study.tune import main
from tests.study.conftest import Tune


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


def assert_closed_to_others(driver: psutil.Process) -> Path:
    """Look at a running study: its Ray is on loopback, wants a token and has a private folder, which it returns."""
    found = listeners(driver)
    assert found, "Ray listens nowhere: this looks at the wrong processes"
    assert [address for address in found if not is_loopback(address)] == []
    server = next(one for one in driver.children(recursive=True) if "gcs_server" in one.name())
    environment = server.environ()
    assert environment["RAY_AUTH_MODE"] == "token"
    assert len(environment["RAY_AUTH_TOKEN"]) == 64
    named = re.search(r"(/\S*/puzzle_study_\w+)/ray/", " ".join(server.cmdline()))
    assert named is not None
    folder = Path(named[1])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    return folder


SEVERAL = [{"CPU": 4.0}, {"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}]


@pytest.mark.parametrize(
    ("wanted", "nodes", "said"),
    [
        (
            {"gpu": 2.0},
            [{"CPU": 8.0, "GPU": 1.0}],
            r"resources\.gpu asks for 2 GPUs per trial, but there are 1;",
        ),
        ({"gpu": 0.5}, [{"CPU": 8.0}], r"resources\.gpu asks for 0\.5 GPUs per trial, but there are 0; lower it"),
        ({"gpu": 0.25}, [{"CPU": 8.0, "GPU": 1.0}], None),
        ({"cpu": 8.0}, SEVERAL, r"resources\.cpu asks for 8 CPUs per trial, but no node has more than 4; lower"),
        (
            {"cpu": 2.0, "gpu": 1.0},
            SEVERAL,
            "resources asks for 2 CPUs and 1 GPUs per trial, and no single node has",
        ),
        ({"cpu": 1.0, "gpu": 1.0}, SEVERAL, None),
    ],
)
def test_a_trial_must_fit_a_node_and_not_all_of_them_together(
    wanted: dict[str, Any], nodes: list[dict[str, float]], said: str | None
) -> None:
    with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
        check_resources(config.Resources(**wanted), nodes)


def test_there_is_room_on_each_node_for_what_fits_it_whole() -> None:
    three = [{"CPU": 4.0}, {"CPU": 3.0, "GPU": 1.0}, {"CPU": 16.0, "GPU": 2.0}]
    assert places(config.Resources(cpu=2.0), three) == 2 + 1 + 8
    assert places(config.Resources(cpu=2.0, gpu=0.25), three) == 1 + 8
    assert places(config.Resources(cpu=1.0, gpu=2.0), three) == 1


def test_gpus_that_pytorch_cannot_use_are_refused_by_node_if_trials_ask_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def node(name: str, **resources: float) -> dict[str, object]:
        return {"NodeManagerHostname": name, "NodeManagerAddress": "10.0.0.1", "Resources": resources}

    asked: list[object] = []

    def answers(remote: object, able: list[dict[str, str]], counts: list[object]) -> list[str | None]:
        asked.extend(zip((one["NodeManagerHostname"] for one in able), counts, strict=True))
        return [faults.get(one["NodeManagerHostname"]) for one in able]

    monkeypatch.setattr(nodes, "answers", answers)
    faults = {"head": "it has none", "b": "PyTorch 2.13.0+cpu sees 0 of 2 GPUs"}
    cluster_of = [node("head", CPU=4.0), node("a", CPU=4.0, GPU=1.0), node("b", CPU=4.0, GPU=2.0)]
    check_gpus(config.Resources(gpu=0.0), cluster_of)
    assert asked == []
    with pytest.raises(UserError, match=r"on b \(10\.0\.0\.1\) \(PyTorch 2\.13\.0\+cpu sees 0 of 2 GPUs\); install"):
        check_gpus(config.Resources(gpu=0.5), cluster_of)
    assert asked == [("a", (1,)), ("b", (2,))]
    del faults["b"]
    check_gpus(config.Resources(gpu=0.5), cluster_of)


LIKE_HERE = {"node": "b (10.0.0.2)", "version": __version__, "sees": True, "error": None, "fingerprint": "f"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": "9.9.9"}, rf"node b \(10.0.0.2\) has 9.9.9, this machine puzzle_study {__version__}; install the"),
        ({"version": None}, r"node b \(10.0.0.2\) has no puzzle_study, this machine"),
        ({"digest": "other"}, r"node b \(10.0.0.2\) has other source files of puzzle_study"),
        (
            {"sees": False},
            r"/x is not the same folder on b \(10.0.0.2\); set `storage` to a folder that every node sees",
        ),
        ({"error": "no images"}, r"node b \(10.0.0.2\): no images"),
        ({"fingerprint": "g"}, r"node b \(10.0.0.2\) has other images in data.root than this machine; copy the same"),
    ],
)
def test_a_node_that_is_not_like_this_one_is_refused_and_named(change: dict[str, object], sentence: str) -> None:
    like_here = LIKE_HERE | {"digest": package_digest()}
    place = Place.of(Results(Path("/x")), None)
    check_nodes(place, "f", [like_here])
    with pytest.raises(UserError, match=sentence):
        check_nodes(place, "f", [like_here, like_here | change])


def test_a_token_that_is_missing_is_asked_for_and_one_that_others_can_read_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"no token for the cluster in .*/\.ray/auth_token; copy that file from the"):
        cluster._mend_token()
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("token", encoding="utf-8")
    path.chmod(0o644)
    assert cluster._mend_token() == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token")
    assert cluster._mend_token() == "RAY_AUTH_TOKEN"


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", r"no Ray cluster answers at 127\.0\.0\.1:1 \("),
        ("auto", r"no Ray cluster answers at .*:2 \("),
        ("ray://127.0.0.1:10001", "--address must be auto or HOST:PORT, got ray://127.0.0.1:10001"),
        (".head:6379", r"no Ray cluster answers at \.head:6379 \("),
        ("somewhere", "--address must be auto or HOST:PORT, got somewhere"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_sentence(
    address: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    with pytest.raises(UserError, match=sentence):
        cluster._reachable(address)


@pytest.mark.slow
def test_a_study_that_finds_no_cluster_ends_with_that_sentence(tiny: Path, tmp_path: Path, tune: Tune) -> None:
    done = tune(tiny, "--results", tmp_path / "results", "--address", "127.0.0.1:1", RAY_AUTH_TOKEN="token")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: no Ray cluster answers at 127.0.0.1:1 (")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error", [Exception("The current node timed out"), TimeoutError("timed out\nafter 30 s"), RuntimeError()]
)
def test_a_ray_that_cannot_start_is_one_sentence_and_leaves_no_study(
    error: Exception, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "init", mock.Mock(side_effect=error))
    with mock.patch.dict(os.environ):
        done = CliRunner().invoke(main, [str(tiny), "--results", str(tmp_path / "results")])
    assert done.exit_code == 2, done.output
    why = str(error).partition("\n")[0] or "RuntimeError"
    assert re.search(rf"^error: .*could not start .*\({why}\); .*TMPDIR.* again\n\Z", done.stderr, re.MULTILINE)
    assert [path.name for path in (tmp_path / "results").rglob("*") if path.suffix in (".yaml", ".json")] == []


def test_a_cluster_that_cannot_be_joined_is_one_sentence(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "init", mock.Mock(side_effect=ConnectionError("Failed to connect")))
    monkeypatch.setattr(cluster, "_reachable", lambda address: address)
    monkeypatch.setattr(cluster, "_ask_in", lambda address, token: None)
    place = Place.of(Results(tmp_path), None)
    joined = cluster.joined_ray(read.load(tiny).study, place, "f", "head:6379")
    with (
        mock.patch.dict(os.environ, RAY_AUTH_MODE="disabled"),
        pytest.raises(UserError, match=r"could not join .* head:6379 \(Failed to connect\); .*ray status"),
        joined,
    ):
        pass


def test_what_listens_but_is_no_ray_cluster_is_told_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.ASK_SECONDS <= 15
    monkeypatch.setattr(cluster, "ASK_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"^{address} does not answer like a Ray cluster"):
            cluster._ask_in(address, "token")
