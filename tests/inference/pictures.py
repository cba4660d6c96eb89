"""Image files of every kind that people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, side: int = 16) -> np.ndarray:
    """A coarse random picture, uint8 [H, W]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR))


def write_many(folder: Path, count: int, *, side: int = 16) -> list[Path]:
    """Write grey PNG files 00.png, 01.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:02d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(pixels(number, side)).save(path)
    return paths


def write_all_kinds(folder: Path) -> list[Path]:
    """Write readable files of many modes, formats and sizes, in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    grey = pixels(1, 40)
    colour = np.stack([pixels(seed, 33) for seed in (1, 2, 3)], axis=-1)
    alpha = np.dstack([colour, np.full((33, 33, 1), 128, dtype=np.uint8)])
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "a_16bit.png")
    Image.fromarray(alpha).save(folder / "b_rgba.png")
    Image.fromarray(colour).quantize(16).save(folder / "c_palette.gif")
    Image.fromarray(colour).save(folder / "d_colour.JPG", quality=95)
    Image.fromarray(grey[:, :7]).save(folder / "e_narrow.bmp")
    Image.fromarray(grey > 128).save(folder / "f_bits.tiff")
    Image.fromarray(pixels(4, 5)).save(folder / "g_tiny.webp", lossless=True)
    return sorted(folder.iterdir())


def write_damaged(folder: Path) -> list[Path]:
    """Write files that cannot be read: no image, cut off, empty, and one named like an image that is a text."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(1, 64)).save(folder / "x_cut.png")
    whole = (folder / "x_cut.png").read_bytes()
    (folder / "x_cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "y_empty.png").write_bytes(b"")
    (folder / "z_text.jpg").write_text("no image")
    return sorted(folder.glob("[xyz]_*"))
