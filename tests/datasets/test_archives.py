"""Archives from the net stay in their folder and within bounds."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from puzzle_study.datasets.archives import unpack
from puzzle_study.errors import UserError

FILES = {"set/a.txt": b"first", "set/below/b.txt": b"second", "c.txt": b"third"}


def make_tar(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in more:
            tar.addfile(info)
    return path


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return path


def make(suffix: str, folder: Path, files: dict[str, bytes]) -> Path:
    return (make_zip if suffix == ".zip" else make_tar)(folder / f"archive{suffix}", files)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Unpacks an archive that is not to be trusted and gives the sentence; nothing is written."""

    def attempt(archive: Path, *, max_bytes: int = 100) -> str:
        with pytest.raises(UserError) as caught:
            unpack(archive, tmp_path / "target", max_bytes=max_bytes)
        assert tree(tmp_path / "target") == {}
        return str(caught.value).removeprefix(str(archive))

    return attempt


both_kinds = pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@both_kinds
def test_files_come_out(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "target"
    (target / "set").mkdir(parents=True)
    (target / "set" / "old.txt").write_text("of an incomplete set")
    unpack(make(suffix, tmp_path, FILES), target, max_bytes=100)
    assert tree(target) == FILES


@both_kinds
@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "set/../../out.txt", "..\\out.txt", "C:/out.txt"])
def test_members_that_leave_the_folder(tmp_path: Path, refused: Callable[..., str], suffix: str, name: str) -> None:
    archive = make(suffix, tmp_path, {**FILES, name: b"evil"})
    assert "leads out of its folder" in refused(archive)
    assert tree(tmp_path) == {archive.name: archive.read_bytes()}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar(tmp_path: Path, refused: Callable[..., str], kind: bytes) -> None:
    info = tarfile.TarInfo("set/link")
    info.type, info.linkname = kind, "/etc/passwd"
    assert "'set/link' is neither a file nor a folder" in refused(make_tar(tmp_path / "a.tar.gz", FILES, info))


def test_links_in_zip(tmp_path: Path, refused: Callable[..., str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        zipped.writestr(info, "/etc/passwd")
    assert "'link' is neither a file nor a folder" in refused(tmp_path / "a.zip")


@both_kinds
def test_bombs(tmp_path: Path, refused: Callable[..., str], suffix: str) -> None:
    archive = make(suffix, tmp_path, {"zeros": bytes(10**6)})
    assert archive.stat().st_size < 10**4
    assert "more than 100,000 bytes" in refused(archive, max_bytes=10**5)


def test_too_many_files(tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puzzle_study.datasets.archives.MAX_FILES", 2)
    assert "more than 2 files" in refused(make_zip(tmp_path / "a.zip", FILES))


@both_kinds
def test_damaged_archives(tmp_path: Path, refused: Callable[..., str], suffix: str) -> None:
    archive = make(suffix, tmp_path, {"bytes": bytes(range(256)) * 400})
    content = archive.read_bytes()
    for damaged in (content[: len(content) // 2], content[:200] + b"\xff" * 200, content[:60] + b"\xff" + content[61:]):
        archive.write_bytes(damaged)
        assert re.match(" is damaged| cannot be unpacked", refused(archive, max_bytes=10**6))


@both_kinds
def test_archives_of_another_kind_than_their_name_says(
    tmp_path: Path, refused: Callable[..., str], suffix: str
) -> None:
    other = make(".zip" if suffix == ".tar.gz" else ".tar.gz", tmp_path, FILES).read_bytes()
    for content in (b"", b"no archive", other):
        (tmp_path / f"one{suffix}").write_bytes(content)
        assert f"is not a {suffix[1:]} archive" in refused(tmp_path / f"one{suffix}")


def endless(kind: str) -> bytes:
    """A tar file with 4 MB of headers."""
    info, long = tarfile.TarInfo("file"), 4 << 20
    info.size = long
    match kind:
        case "pax" | "long name":
            info.type = tarfile.XHDTYPE if kind == "pax" else tarfile.GNUTYPE_LONGNAME
            return info.tobuf(tarfile.USTAR_FORMAT) + bytes(long)
        case "sparse map":
            info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
            return info.tobuf(tarfile.PAX_FORMAT) + b"9999999\n" + b"0\n" * (long // 2)
        case _:  # empty members with 128 KiB of attributes
            info.size, info.pax_headers = 0, {"comment": "x" * (1 << 17)}
            return info.tobuf(tarfile.PAX_FORMAT) * 40


@pytest.mark.parametrize("kind", ["pax", "long name", "sparse map", "many"])
def test_headers_that_would_fill_the_memory(tmp_path: Path, refused: Callable[..., str], kind: str) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(endless(kind), 1))
    assert "headers have more than 1,048,576 bytes" in refused(tmp_path / "a.tar.gz")


def test_contents_are_no_headers(tmp_path: Path) -> None:
    files = {"large": bytes(2 << 20), "after": b"more"}
    unpack(make_tar(tmp_path / "archive.tar.gz", files), tmp_path / "target", max_bytes=1 << 30)
    assert tree(tmp_path / "target") == files
