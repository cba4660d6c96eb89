"""Stores over HTTP: S3 as moto serves it, GCS as gcp-storage-emulator does, through pyarrow's own clients."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study import storage
from puzzle_study.study.storage import Place, Store
from tests.cluster.store_suite import StoreSuite
from tests.study.conftest import start, wait_until

# What the servers require does not go together with what the package's notebooks require, so they have an environment
# of their own, which `make test` makes.
SERVERS = Path(sys.prefix) / "store-servers" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVERS.exists(), reason="needs the servers that `make check` installs"),
]
STUDY = """
name: tiny
data: {name: digits, normal_classes: [3], max_train_images: 48, max_test_images: 40}
model: {base_channels: 2}
train: {epochs: 2, batch_size: 16, precision: float32}
evaluate: {every: 2, max_images: 20}
references: [nearest_neighbour]
attacks: {configurations: [winner], attacks: [attack1], methods: [fgsm], epsilons: [0.1], max_images: 4}
max_concurrent: 1
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something listens on a port of the loopback."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    return False


def post(url: str, content: bytes, method: str = "POST") -> None:
    request = urllib.request.Request(url, data=content, method=method, headers={"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


@contextlib.contextmanager
def served(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server until its port answers and for the time of the tests."""
    with log.open("wb") as output:
        process = subprocess.Popen([SERVERS, "-m", *command], stdout=output, stderr=output)
    try:
        end = time.monotonic() + 60
        while not answers(port):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an S3 server that has a bucket of the name `bucket`."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        command = ["moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with served(command, port, tmp_path_factory.mktemp("s3") / "log"):
            post(f"http://127.0.0.1:{port}/bucket", b"", "PUT")
            yield port


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a GCS server that has a bucket of the name `bucket`."""
    port = free_port()
    command = ["gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]
    with served([*command, "--default-bucket=bucket"], port, tmp_path_factory.mktemp("gcs") / "log"):
        yield port


def s3_url(port: int, folder: str, bucket: str = "bucket") -> str:
    return f"s3://{bucket}/{folder}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


def gcs_url(port: int, folder: str, bucket: str = "bucket") -> str:
    return f"gs://anonymous@{bucket}/{folder}?endpoint_override=127.0.0.1:{port}&scheme=http"


class TestS3(StoreSuite):
    """A store on S3."""

    @pytest.fixture
    def place(self, s3: int, tmp_path: Path) -> Place:
        """A study whose results folder is the copy of a store."""
        return Place.of(Results(tmp_path / "results" / "tiny"), s3_url(s3, secrets.token_hex(4)))


class TestGcs(StoreSuite):
    """A store on GCS."""

    @pytest.fixture
    def place(self, gcs: int, tmp_path: Path) -> Place:
        """A study whose results folder is the copy of a store."""
        return Place.of(Results(tmp_path / "results" / "tiny"), gcs_url(gcs, secrets.token_hex(4)))


def test_a_bucket_itself_is_a_store(s3: int, gcs: int, tmp_path: Path) -> None:
    name = f"tiny{secrets.token_hex(4)}"
    (tmp_path / "a").write_text("a", encoding="utf-8")
    for url in (s3_url(s3, ""), gcs_url(gcs, "")):
        Store(url, name).put("a", tmp_path)
        assert Store(url, name).files() == {"a": 1}


def assert_refused(url: str, reason: str) -> None:
    began = time.monotonic()
    with pytest.raises(
        UserError, match=rf"^storage (s3|gs)://.* cannot be used from \S+ \(.*{reason}.*\); check the"
    ) as e:
        Store(url, "tiny").check()
    assert "\n" not in str(e.value)
    assert time.monotonic() - began < 60, "a study file's mistake must not cost minutes"


def test_a_bucket_that_is_not_there_is_said_in_a_sentence(s3: int, gcs: int) -> None:
    assert_refused(s3_url(s3, "x", "nobucket"), "The specified bucket does not exist")
    assert_refused(gcs_url(gcs, "x", "nobucket"), "NOT_FOUND")


def test_wrong_credentials_are_said_in_a_sentence(s3: int) -> None:
    post(f"http://127.0.0.1:{s3}/moto-api/reset-auth", b"0")
    try:
        assert_refused(s3_url(s3, "x"), "The AWS Access Key Id you provided does not exist in our records")
    finally:
        post(f"http://127.0.0.1:{s3}/moto-api/reset-auth", b"inf")


def test_a_server_that_does_not_answer_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    # Google's client retries for so long itself; without a limit, for a quarter of an hour.
    monkeypatch.setattr(storage, "GCS_RETRY_SECONDS", 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    port = free_port()
    assert_refused(s3_url(port, "x"), "Could not connect to server")
    assert_refused(gcs_url(port, "x"), "Could not connect to server")


def test_a_server_that_stops_in_mid_study_is_said_with_how_to_go_on(s3: int, tmp_path: Path) -> None:
    place = Place.of(Results(tmp_path / "tiny"), s3_url(s3, secrets.token_hex(4)))
    arriving = place.arriving(Results(tmp_path / "tiny"))
    assert arriving.record("a") is None
    post(f"http://127.0.0.1:{s3}/moto-api/reset-auth", b"0")
    try:
        with pytest.raises(UserError, match=r"continue with --resume$"):
            arriving.record("a")
        with pytest.raises(UserError, match=r"continue with --resume$"):
            place.collect()
    finally:
        post(f"http://127.0.0.1:{s3}/moto-api/reset-auth", b"inf")


def test_a_store_that_stops_in_mid_study_and_a_lost_disk_lose_no_trial(s3: int, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY, encoding="utf-8")
    url = s3_url(s3, "lost")
    store = Store(url, "tiny")
    arguments = (tmp_path / "tiny.yaml", "--set", f"storage={url}")
    driver = start(*arguments, "--results", tmp_path / "lost")
    records = tmp_path / "lost" / "tiny" / "records"
    wait_until(lambda: list(records.glob("[!.]*.json")), driver)
    post(f"http://127.0.0.1:{s3}/moto-api/reset-auth", b"0")
    out, err = driver.communicate(timeout=200)
    post(f"http://127.0.0.1:{s3}/moto-api/reset-auth", b"inf")
    assert driver.returncode == 2, out + err
    assert re.fullmatch(r"error: storage s3://.* continue with --resume\n", err), err
    finished = {path.name: path.read_bytes() for path in records.glob("[!.]*.json")}
    shutil.rmtree(tmp_path / "lost")

    another = tmp_path / "another" / "tiny"
    driver = start(*arguments, "--results", another.parent, "--resume")
    out, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, out + err
    assert {name: (another / "records" / name).read_bytes() for name in finished} == finished
    there = store.files()
    assert {"study.yaml", "trials.csv", "report/index.html", "best/3/weights.safetensors"} <= set(there)
    assert not any(name.startswith(("checkpoints", "ray")) for name in there)
    for name, size in there.items():
        assert (another / name).stat().st_size == size, name
