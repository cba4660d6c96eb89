"""Image files of every kind become uint8 [C, H, W], or a sentence."""

from __future__ import annotations

import os
import struct
import threading
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from puzzle_study.datasets import images
from puzzle_study.datasets.records import Sizing
from puzzle_study.errors import UserError

from .conftest import pixels, png

COLOUR, GRAY = Sizing(size=16, channels=3), Sizing(size=16, channels=1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("sizing", [COLOUR, GRAY])
def test_all_modes_decode(tmp_path: Path, mode: str, sizing: Sizing) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    png(path, mode=mode)
    result = images.decode(path, sizing)
    assert result.shape == (sizing.channels, 16, 16)
    assert result.dtype == np.uint8
    assert result.std() > 5


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4"])
def test_sixteen_bits_become_the_nearest_of_eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(images, "TILE", 100)
    values = np.random.default_rng(0).permutation(65536).reshape(256, 256)
    mode = {"<u2": "I;16", ">u2": "I;16B", "<i4": "I"}[dtype]
    Image.frombytes(mode, (256, 256), values.astype(dtype).tobytes()).save(tmp_path / "a.tif")
    result = images.decode(tmp_path / "a.tif", Sizing(size=256, channels=1))
    assert np.array_equal(result[0], (values * 255 + 32767) // 65535)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "a.png")
    assert np.array_equal(images.decode(tmp_path / "a.png", Sizing(size=256, channels=1)), result)


def test_sixteen_bits_take_little_memory(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((3000, 3000), dtype=np.uint16)).save(tmp_path / "a.png")
    tracemalloc.start()
    try:
        images.decode(tmp_path / "a.png", GRAY)
        assert tracemalloc.get_traced_memory()[1] < 4 * 3000**2
    finally:
        tracemalloc.stop()


def test_large_images_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = [30, 8, 30, 30, 8, 8, 30]
    paths = [tmp_path / f"{number}.png" for number in range(len(sides))]
    for path, side in zip(paths, sides, strict=True):
        png(path, size=(side, side))
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    lock, at_once, seen = threading.Lock(), Counter[str](), list[int]()
    plain = images._plain

    def watched(image: Image.Image) -> Image.Image:
        with lock:
            at_once["pixels"] += image.width * image.height
            seen.append(at_once["pixels"])
        time.sleep(0.02)
        with lock:
            at_once["pixels"] -= image.width * image.height
        return plain(image)

    monkeypatch.setattr(images, "_plain", watched)
    results = list(images.decode_all([*paths, tmp_path / "missing.png", paths[0]], GRAY))
    assert [isinstance(result, UserError) for result in results] == [False] * 7 + [True, False]
    assert max(seen) <= 1000


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_black(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    if mode == "P":
        Image.new("P", (16, 16), 1).save(path, transparency=1)
    else:
        Image.new("RGBA", (16, 16), (200, 200, 200, 0)).convert(mode).save(path)
    assert images.decode(path, COLOUR).max() == 0


@pytest.mark.parametrize(("orientation", "size"), [(1, (30, 20)), (3, (30, 20)), (6, (20, 30)), (8, (20, 30))])
def test_photographs_are_turned_upright(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    image = Image.new("L", (30, 20))
    image.paste(255, (0, 0, 15, 10))  # the corner that lies top left unless the photograph is turned
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert images.upright_size(tmp_path / "a.jpg") == size
    corners = images.decode(tmp_path / "a.jpg", GRAY)[0, 2::11, 2::11] > 128
    assert [(1, 3, 6, 8)[number] for number in np.flatnonzero(corners[[0, 1, 0, 1], [0, 1, 1, 0]])] == [orientation]


def test_scaling_down_does_not_alias(tmp_path: Path) -> None:
    stripes = np.zeros((256, 256), dtype=np.uint8)
    stripes[::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert np.abs(images.decode(tmp_path / "a.png", GRAY).astype(int) - 128).max() <= 4


def test_the_array_path_equals_the_file_path(tmp_path: Path) -> None:
    batch_NHWC = pixels(0, 3, 40, 40, 3)
    for sizing in (COLOUR, GRAY, Sizing(size=64, channels=3)):
        resized = images.resize_all(batch_NHWC, sizing)
        for image_HWC, result in zip(batch_NHWC, resized, strict=True):
            Image.fromarray(image_HWC).save(tmp_path / "a.png")
            assert np.array_equal(images.decode(tmp_path / "a.png", sizing), result)


def test_gray_sets_in_colour() -> None:
    result = images.resize_all(pixels(0, 2, 16, 16, 1), COLOUR)
    assert result.shape == (2, 3, 16, 16)
    assert np.array_equal(result[:, 0], result[:, 2])


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_gigantic_images_are_refused(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(bomb(side, side))
    with pytest.raises(UserError, match=r"a\.png has more than 89,478,485 pixels.*scale the image down"):
        images.decode(tmp_path / "a.png", COLOUR)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.full((4, 4), -1, dtype=np.int32), "has pixels beyond 16 bits; save it with 8 or 16 bits"),
        (np.full((4, 4), 65536, dtype=np.int32), "has pixels beyond 16 bits"),
        (np.zeros((4, 4), dtype=np.float32), "has floating-point pixels, whose range is unknown; save it"),
    ],
)
def test_pixels_of_an_unknown_range(tmp_path: Path, array: np.ndarray, sentence: str) -> None:
    Image.fromarray(array).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"a\.tif {sentence}"):
        images.decode(tmp_path / "a.tif", GRAY)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    png(tmp_path / name, size=(64, 64))
    for content, why in (((tmp_path / name).read_bytes()[:900], ".*truncated.*"), (b"text", "its content .*format")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} is not a readable image \({why}\); replace it"):
            images.decode(tmp_path / name, COLOUR)


def test_missing_folder_and_permission(tmp_path: Path, refuse: Callable[..., None]) -> None:
    with pytest.raises(UserError, match=r"a\.png is missing"):
        images.decode(tmp_path / "a.png", COLOUR)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(UserError, match=r"b\.png cannot be read \(Is a directory\)"):
        images.decode(tmp_path / "b.png", COLOUR)
    refuse("open")
    with pytest.raises(UserError, match=r"a\.png cannot be read by this user; give read permission"):
        images.decode(tmp_path / "a.png", COLOUR)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["a.png", "a.jpg", "a.gif", "a.tif"]), data=st.data())
def test_any_damage_ends_in_pixels_or_a_sentence(tmp_path: Path, name: str, data: st.DataObject) -> None:
    png(tmp_path / name, size=(24, 24))
    content = bytearray((tmp_path / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(content[: data.draw(st.integers(1, len(content)))])
    for result in images.decode_all([tmp_path / name], COLOUR):
        assert isinstance(result, UserError) or result.shape == (3, 16, 16)


def test_decode_all_keeps_order_and_goes_on(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for number, path in enumerate(paths):
        Image.new("L", (16, 16), number).save(path)
    paths[7].write_text("damaged")
    results = list(images.decode_all(paths, GRAY))
    assert isinstance(results[7], UserError)
    assert [int(result.max()) for result in results if not isinstance(result, UserError)] == [*range(7), *range(8, 20)]
