"""Archives from the net stay in their folder and within bounds."""

from __future__ import annotations

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


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_files_come_out(tmp_path: Path, make: Callable[..., Path]) -> None:
    target = tmp_path / "target"
    (target / "set").mkdir(parents=True)
    (target / "set" / "old.txt").write_text("of an incomplete set")
    unpack(make(tmp_path / "archive", FILES), target, max_bytes=100)
    assert tree(target) == FILES


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "set/../../out.txt", "..\\out.txt", "C:/out.txt"])
def test_members_that_leave_the_folder(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    archive = make(tmp_path / "archive", {**FILES, name: b"evil"})
    with pytest.raises(UserError, match=r"was not unpacked: its member .*out\.txt' leads out of its folder"):
        unpack(archive, tmp_path / "target", max_bytes=100)
    assert tree(tmp_path) == {"archive": archive.read_bytes()}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar(tmp_path: Path, kind: bytes) -> None:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("set/link")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)

    with pytest.raises(UserError, match="its member 'set/link' is neither a file nor a folder"):
        unpack(make_tar(tmp_path / "archive", FILES, add), tmp_path / "target", max_bytes=100)
    assert tree(tmp_path / "target") == {}


def test_links_in_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive", "w") as zipped:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        zipped.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="its member 'link' is neither a file nor a folder"):
        unpack(tmp_path / "archive", tmp_path / "target", max_bytes=100)


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_bombs(tmp_path: Path, make: Callable[..., Path]) -> None:
    archive = make(tmp_path / "archive", {"zeros": bytes(10**6)})
    assert archive.stat().st_size < 10**4
    with pytest.raises(UserError, match=r"holds more than 100,000 bytes and was not unpacked"):
        unpack(archive, tmp_path / "target", max_bytes=10**5)
    assert tree(tmp_path / "target") == {}


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puzzle_study.datasets.archives.MAX_FILES", 2)
    with pytest.raises(UserError, match="holds more than 2 files"):
        unpack(make_zip(tmp_path / "archive", FILES), tmp_path / "target", max_bytes=100)


def test_damaged_archives(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "archive.tar.gz", {"zeros": bytes(range(256)) * 400})
    content = archive.read_bytes()
    for damaged in (b"", b"no archive", content[: len(content) // 2], content[:200] + b"\xff" * 200):
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match=r"archive\.tar\.gz (is damaged|cannot be unpacked)"):
            unpack(archive, tmp_path / "target", max_bytes=10**6)
    assert tree(tmp_path / "target") == {}


def test_a_damaged_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive.zip", {"a": bytes(range(256)) * 40})
    content = bytearray(archive.read_bytes())
    content[60] ^= 255
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"archive\.zip is damaged"):
        unpack(archive, tmp_path / "target", max_bytes=10**6)
