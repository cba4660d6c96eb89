"""Downloads from a server on this machine: checksums, interruptions, mirrors, traps."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from puzzle_study.datasets import catalogue, download, transfer
from puzzle_study.errors import UserError

from .conftest import Layouts, said
from .test_archives import make_tar, make_zip


@dataclass
class Server:
    """What the server on 127.0.0.1 gives, how it misbehaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"one"'
    etag_later: str | None = None
    """Version from the second answer on."""
    break_after: list[int] = field(default_factory=list)
    """Bytes after which each of the next answers breaks off."""
    status: int = 0
    """Answer this to everything."""
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets a set come from elsewhere, as one file."""

    def replace(name: str, file: str, urls: Sequence[str], content: bytes | None, max_bytes: int = 2 << 20) -> None:
        checksum = None if content is None else md5(content)
        found = catalogue.Download(file, tuple(urls), checksum, max_bytes, unpack=name != "mnist")
        info = dataclasses.replace(catalogue.DATASETS[name], downloads=(found,), checksums={}, expected={})
        monkeypatch.setitem(catalogue.DATASETS._found, name, info)

    return replace


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            content = state.files.get(self.path)
            if state.status or content is None:
                self.send_error(state.status or 404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if start and self.headers.get("If-Range") != state.etag:
                start = 0
            if start > len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if state.etag:
                self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            state.etag = state.etag_later or state.etag
            rest = content[start:]
            with contextlib.suppress(ConnectionError):
                self.wfile.write(rest[: state.break_after.pop(0)] if state.break_after else rest)

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSE_S", 0.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        state.url = f"http://127.0.0.1:{running.server_address[1]}"
        yield state
        running.shutdown()


CONTENT = bytes(range(256)) * 4000


def fetched(root: Path) -> bytes:
    return (download.fetch("mnist", str(root)) / "file").read_bytes()


@pytest.fixture
def one_file(server: Server, offer: Callable[..., None]) -> Server:
    """MNIST as a single file of a megabyte."""
    server.files["/file"] = CONTENT
    offer("mnist", "file", [f"{server.url}/file"], CONTENT)
    return server


def test_a_file_is_fetched_with_progress(one_file: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    folder = download.fetch("mnist", str(tmp_path), lambda *step: seen.append(step))
    assert folder == tmp_path / "mnist"
    assert (folder / "file").read_bytes() == CONTENT
    assert (seen[0], seen[-1]) == (("file", 0, len(CONTENT)), ("file", len(CONTENT), len(CONTENT)))
    assert sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock")) == ["file"]


def test_a_file_that_is_there_is_not_fetched_again(one_file: Server, tmp_path: Path) -> None:
    assert fetched(tmp_path) == fetched(tmp_path)
    assert len(one_file.asked) == 1


def test_interruptions_are_continued(one_file: Server, tmp_path: Path) -> None:
    one_file.break_after = [300_000, 200_000]
    assert fetched(tmp_path) == CONTENT
    assert [wanted for _, wanted in one_file.asked] == [None, "bytes=300000-", "bytes=500000-"]


def test_the_next_command_continues(one_file: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    one_file.break_after = [300_000]
    with pytest.raises(
        UserError, match=r"file could not be fetched \(.*ended after 300,000 of 1,024,000 bytes; 300,000"
    ):
        fetched(tmp_path)
    assert (tmp_path / "mnist" / "file.part").stat().st_size == 300_000
    assert fetched(tmp_path) == CONTENT
    assert one_file.asked[-1][1] == "bytes=300000-"


def test_a_new_version_is_not_glued_to_an_old_one(one_file: Server, tmp_path: Path) -> None:
    one_file.break_after = [300_000]
    one_file.etag_later = '"two"'
    assert fetched(tmp_path) == CONTENT


def test_servers_without_versions_or_ranges_start_again(one_file: Server, tmp_path: Path) -> None:
    one_file.etag, one_file.break_after = None, [300_000]
    assert fetched(tmp_path) == CONTENT
    assert [wanted for _, wanted in one_file.asked] == [None, None]
    (tmp_path / "mnist" / "file").unlink()
    one_file.etag, one_file.ranges, one_file.break_after = '"one"', False, [300_000]
    assert fetched(tmp_path) == CONTENT


def test_a_partial_file_that_is_too_long(one_file: Server, tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "file.part").write_bytes(CONTENT + b"more")
    (folder / "file.part.json").write_text(f'{{"url": "{one_file.url}/file", "version": "\\"one\\""}}')
    assert fetched(tmp_path) == CONTENT


def test_a_wrong_checksum(one_file: Server, tmp_path: Path) -> None:
    one_file.files["/file"] = CONTENT[:-1] + b"x"
    with pytest.raises(
        UserError, match=r"file could not be fetched \(.*another checksum than md5:.*, so it was deleted"
    ):
        fetched(tmp_path)
    assert not (tmp_path / "mnist" / "file").exists()
    assert not (tmp_path / "mnist" / "file.part").exists()


def test_mirrors_are_tried_in_turn(server: Server, tmp_path: Path, offer: Callable[..., None]) -> None:
    server.files.update({"/bad": b"damaged", "/good": CONTENT})
    offer("mnist", "file", [f"{server.url}/{name}" for name in ("absent", "bad", "good")], CONTENT)
    assert fetched(tmp_path) == CONTENT
    assert [path for path, _ in server.asked] == ["/absent", "/bad", "/good"]


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (503, 4), (429, 4)])
def test_refusals(one_file: Server, tmp_path: Path, status: int, attempts: int) -> None:
    one_file.status = status
    with pytest.raises(UserError, match=f"the server answers {status} .*run the command again later, or put the file"):
        fetched(tmp_path)
    assert len(one_file.asked) == attempts


def test_more_bytes_than_expected(server: Server, tmp_path: Path, offer: Callable[..., None]) -> None:
    server.files["/file"] = CONTENT
    offer("mnist", "file", [f"{server.url}/file"], None, 1000)
    with pytest.raises(UserError, match="sends more than the expected maximum of 1,000 bytes"):
        fetched(tmp_path)


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offer: Callable[..., None]) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    offer("mnist", "file", ["http://127.0.0.1:9/file"], None, 1000)
    with pytest.raises(UserError, match=r"could not be fetched \(http://127\.0\.0\.1:9/file: .*refused"):
        fetched(tmp_path)


def test_the_command_fetches_unpacks_and_checks(
    server: Server, layouts: Layouts, tmp_path: Path, offer: Callable[..., None]
) -> None:
    folder = layouts.cifar_python()
    files = {f"cifar-10-batches-py/{path.name}": path.read_bytes() for path in folder.iterdir()}
    archive = make_tar(tmp_path / "archive.tar.gz", files).read_bytes()
    server.files["/archive.tar.gz"] = archive
    server.break_after = [10_000]
    offer("cifar10", "archive.tar.gz", [f"{server.url}/archive.tar.gz"], archive)
    root = tmp_path / "fetched"
    output = said("fetch", "cifar10", "--root", root)
    assert f"cifar10: 100 train and 20 test images in {root}/cifar10/cifar-10-batches-py" in output
    assert not (root / "cifar10" / "archive.tar.gz").exists()
    assert "cifar10 is there already" in said("fetch", "cifar10", "--root", root)
    assert len(server.asked) == 2
    (root / "cifar10" / "cifar-10-batches-py" / "data_batch_2").unlink()
    assert "every file can be read" in said("fetch", "cifar10", "--root", root), "an incomplete set is completed"


def test_the_command_refuses_a_traversal(server: Server, tmp_path: Path, offer: Callable[..., None]) -> None:
    archive = make_tar(tmp_path / "archive.tar.gz", {"../../evil": b"x"}).read_bytes()
    server.files["/a"] = archive
    offer("cifar10", "a", [f"{server.url}/a"], archive)
    output = said("fetch", "cifar10", "--root", tmp_path / "root", code=2)
    assert "its member '../../evil' leads out of its folder" in output
    assert not list(tmp_path.rglob("evil"))


def test_an_archive_brought_along_is_kept(
    server: Server, layouts: Layouts, tmp_path: Path, offer: Callable[..., None]
) -> None:
    folder = layouts.coil(objects=[1])
    root = tmp_path / "fetched"
    (root / "coil100").mkdir(parents=True)
    files = {f"coil-100/{path.name}": path.read_bytes() for path in folder.iterdir()}
    make_zip(root / "coil100" / "coil-100.zip", files)
    offer("coil100", "coil-100.zip", [server.url], None)
    said("fetch", "coil100", "--root", root)
    assert (root / "coil100" / "coil-100.zip").exists()
    assert server.asked == []
