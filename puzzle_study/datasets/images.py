"""Reads an image file or array as ``uint8`` pixels of one size and number of channels."""

from __future__ import annotations

import itertools
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from puzzle_study.datasets.records import Bytes, Sizing, attempt, reading
from puzzle_study.errors import UserError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
MAX_PIXELS = 89_478_485
"""Pillow's own warning limit, 256 MiB of RGB: a larger file is an attack or a mistake. It also limits all images
decoded at the same time."""
TILE = 1024
"""Side of the squares in which 16 bits are reduced to 8."""


class _Budget:
    """Lets threads decode at the same time while their images have at most ``MAX_PIXELS`` together."""

    def __init__(self) -> None:
        self._used = 0
        self._freed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for this many pixels."""
        with self._freed:
            self._freed.wait_for(lambda: self._used + pixels <= MAX_PIXELS)
            self._used += pixels
        try:
            yield
        finally:
            with self._freed:
                self._used -= pixels
                self._freed.notify_all()


_BUDGET = _Budget()


def is_image_name(path: Path) -> bool:
    """Whether a file counts as an image by its name; hidden files do not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def decode(path: Path, sizing: Sizing) -> Bytes:
    """Decode one image file to uint8 [C, H, W].

    Resolves palettes, puts transparency on black, reduces 16 bits to 8 and applies EXIF orientation;
    one channel is ITU-R 601 luma.

    Raises:
        UserError: the file is missing, unreadable, damaged, not an image, or too large to decode safely.
    """
    with reading(path), path.open("rb") as file:
        try:
            image = Image.open(file, formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            with _BUDGET.hold(image.width * image.height):
                # In place, because it otherwise copies, and most images need no rotation.
                ImageOps.exif_transpose(image, in_place=True)
                return _pixels(image, sizing)
        except Image.DecompressionBombError:
            raise UserError(
                f"{path} has more than {MAX_PIXELS:,} pixels, which is refused for safety; scale the image down"
            ) from None
        except UserError as error:
            raise UserError(f"{path} {error}") from None
        except PermissionError:
            raise
        except Exception as error:
            # Damaged files make Pillow's decoders raise nearly anything (SyntaxError, struct.error, ...).
            raise UserError(
                f"{path} is not a readable image ({_reason(error, path)}); replace it by an undamaged copy or remove it"
            ) from None


def upright_size(path: Path) -> tuple[int, int]:
    """Return an image file's width and height after EXIF orientation, from its header; UserError if unreadable."""
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=FORMATS) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size


def decode_all(paths: Sequence[Path], sizing: Sizing) -> Iterator[Bytes | UserError]:
    """Decode image files in order, several at a time; a damaged file yields its error in place."""
    # Pillow releases the interpreter's lock while decoding, so threads are enough.
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    with warnings.catch_warnings():
        # Pillow warns of large images, which the limit above handles, and of damaged EXIF blocks.
        warnings.simplefilter("ignore")
        try:
            yield from pool.map(lambda path: attempt(lambda: decode(path, sizing)), paths)
        finally:
            pool.shutdown(cancel_futures=True)


def resize(image: Image.Image, size: int) -> Image.Image:
    """Scale to a square; Pillow's bilinear filter widens with the scale, so it does not alias."""
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR)


def resize_all(images_NHWC: Bytes, sizing: Sizing) -> Bytes:
    """Bring an array of images (C = 1 or 3) to the sizing: uint8 [N, C, H, W], contiguous."""
    count, height, width, channels = images_NHWC.shape
    if channels == 3 and sizing.channels == 1:
        images_NHWC = luma(images_NHWC)[..., None]
    elif channels != sizing.channels:
        images_NHWC = np.broadcast_to(images_NHWC, (count, height, width, sizing.channels))
    if (height, width) == (sizing.size, sizing.size):
        return np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2))
    result_NCHW = np.empty((count, sizing.channels, sizing.size, sizing.size), dtype=np.uint8)
    for image_HWC, result_CHW in zip(images_NHWC, result_NCHW, strict=True):
        for channel, result_HW in zip(image_HWC.transpose(2, 0, 1), result_CHW, strict=True):
            result_HW[:] = np.asarray(resize(Image.fromarray(np.ascontiguousarray(channel)), sizing.size))
    return result_NCHW


def luma(images_NHWC: Bytes) -> Bytes:
    """ITU-R 601 luma of RGB images, with the same fixed-point arithmetic as Pillow's ``convert("L")``."""
    red, green, blue = (images_NHWC[..., channel].astype(np.uint32) for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)


def _pixels(image: Image.Image, sizing: Sizing) -> Bytes:
    mode = "L" if sizing.channels == 1 else "RGB"
    pixels = np.asarray(resize(_plain(image).convert(mode), sizing.size))
    return pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _plain(image: Image.Image) -> Image.Image:
    """Resolve 16 bits, palettes and transparency, so that ``convert`` to L or RGB loses nothing silently."""
    if image.mode == "F":
        raise UserError("has floating-point pixels, whose range is unknown; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale modes I, I;16 and I;16B from 16 bits; Pillow's own conversion would clip at 255 instead."""
    scaled_HW = np.empty((image.height, image.width), dtype=np.uint8)
    for top, left in itertools.product(range(0, image.height, TILE), range(0, image.width, TILE)):
        # Square by square: the wide intermediate numbers take ten times the memory of their pixels.
        bottom, right = min(top + TILE, image.height), min(left + TILE, image.width)
        values_HW = np.asarray(image.crop((left, top, right, bottom)))
        if not 0 <= values_HW.min() <= values_HW.max() <= 65535:
            raise UserError("has pixels beyond 16 bits; save it with 8 or 16 bits")
        scaled_HW[top:bottom, left:right] = (values_HW.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(scaled_HW)


def _reason(error: Exception, path: Path) -> str:
    """Shorten the decoder's message; Pillow adds the file or a useless memory address."""
    if isinstance(error, UnidentifiedImageError):
        return "its content is not a known image format"
    text = (str(error) or type(error).__name__).replace(str(path), "the file")
    return text.splitlines()[0][:120]
