"""Archives from the net stay in their folder and within bounds."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from puzzle_study.datasets.archives import unpack
from puzzle_study.errors import UserError

FILES = {"set/a.txt": b"first", "set/below/b.txt": b"second", "c.txt": b"third"}


def make_tar(path: Path, files: dict[str, bytes], extra: Callable[[tarfile.TarFile], None] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if extra:
            extra(tar)
    return path


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return path


SUFFIXES: dict[Callable[..., Path], str] = {make_tar: ".tar.gz", make_zip: ".zip"}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_files_come_out(tmp_path: Path, make: Callable[..., Path]) -> None:
    target = tmp_path / "target"
    (target / "set").mkdir(parents=True)
    (target / "set" / "old.txt").write_text("of an incomplete set")
    unpack(make(tmp_path / f"archive{SUFFIXES[make]}", FILES), target, max_bytes=100)
    assert tree(target) == FILES


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "set/../../out.txt", "..\\out.txt", "C:/out.txt"])
def test_members_that_leave_the_folder(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    archive = make(tmp_path / f"archive{SUFFIXES[make]}", {**FILES, name: b"evil"})
    with pytest.raises(UserError, match=r"was not unpacked: its member .*out\.txt' leads out of its folder"):
        unpack(archive, tmp_path / "target", max_bytes=100)
    assert tree(tmp_path) == {archive.name: archive.read_bytes()}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar(tmp_path: Path, kind: bytes) -> None:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("set/link")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)

    with pytest.raises(UserError, match="its member 'set/link' is neither a file nor a folder"):
        unpack(make_tar(tmp_path / "archive.tar.gz", FILES, add), tmp_path / "target", max_bytes=100)
    assert tree(tmp_path / "target") == {}


def test_links_in_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as zipped:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        zipped.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="its member 'link' is neither a file nor a folder"):
        unpack(tmp_path / "archive.zip", tmp_path / "target", max_bytes=100)


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_bombs(tmp_path: Path, make: Callable[..., Path]) -> None:
    archive = make(tmp_path / f"archive{SUFFIXES[make]}", {"zeros": bytes(10**6)})
    assert archive.stat().st_size < 10**4
    with pytest.raises(UserError, match=r"holds more than 100,000 bytes and was not unpacked"):
        unpack(archive, tmp_path / "target", max_bytes=10**5)
    assert tree(tmp_path / "target") == {}


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puzzle_study.datasets.archives.MAX_FILES", 2)
    with pytest.raises(UserError, match="holds more than 2 files"):
        unpack(make_zip(tmp_path / "archive.zip", FILES), tmp_path / "target", max_bytes=100)


def test_damaged_archives(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "archive.tar.gz", {"zeros": bytes(range(256)) * 400})
    content = archive.read_bytes()
    for damaged in (content[: len(content) // 2], content[:200] + b"\xff" * 200):
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match=r"archive\.tar\.gz (is damaged|cannot be unpacked)"):
            unpack(archive, tmp_path / "target", max_bytes=10**6)
    assert tree(tmp_path / "target") == {}


@pytest.mark.parametrize(("name", "kind"), [("archive.zip", "zip"), ("archive.tar.gz", r"tar\.gz")])
def test_archives_of_another_kind_than_their_name_says(tmp_path: Path, name: str, kind: str) -> None:
    tar, zipped = make_tar(tmp_path / "one.tar.gz", FILES), make_zip(tmp_path / "one.zip", FILES)
    archive = tmp_path / name
    for content in (b"", b"no archive", (zipped if "tar" in name else tar).read_bytes()):
        archive.write_bytes(content)
        with pytest.raises(UserError, match=rf"is no {kind} archive, as it should be; delete it and fetch"):
            unpack(archive, tmp_path / "target", max_bytes=100)
    assert tree(tmp_path / "target") == {}


def endless(kind: str) -> bytes:
    """A tar file with 4 MB of headers."""
    long = 4 << 20
    info = tarfile.TarInfo("file")
    match kind:
        case "pax" | "long name":
            info.type, info.size = tarfile.XHDTYPE if kind == "pax" else tarfile.GNUTYPE_LONGNAME, long
            return info.tobuf(tarfile.USTAR_FORMAT) + bytes(long)
        case "sparse map":
            info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
            info.size = long
            return info.tobuf(tarfile.PAX_FORMAT) + b"9999999\n" + b"0\n" * (long // 2)
        case _:
            return b"".join(pax(f"{number}") for number in range(40))


def pax(name: str) -> bytes:
    """An empty member with 128 KiB of attributes."""
    info = tarfile.TarInfo(name)
    info.pax_headers = {"comment": "x" * (1 << 17)}
    return info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize("kind", ["pax", "long name", "sparse map", "many"])
def test_headers_that_would_fill_the_memory(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(gzip.compress(endless(kind), 1))
    with pytest.raises(UserError, match=r"archive\.tar\.gz is damaged \(its headers have more than 1,048,576 bytes"):
        unpack(archive, tmp_path / "target", max_bytes=1000)


def test_contents_are_no_headers(tmp_path: Path) -> None:
    files = {"large": bytes(2 << 20), "after": b"more"}
    unpack(make_tar(tmp_path / "archive.tar.gz", files), tmp_path / "target", max_bytes=1 << 30)
    assert tree(tmp_path / "target") == files


def test_a_damaged_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive.zip", {"a": bytes(range(256)) * 40})
    content = bytearray(archive.read_bytes())
    content[60] ^= 255
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"archive\.zip is damaged"):
        unpack(archive, tmp_path / "target", max_bytes=10**6)
