"""Draws images to try the package with: metal washers, and washers with scratches, stains and chips.

    python -m benchmarks.parts parts                     # parts/train/good, parts/test/good, parts/test/scratch, …

Light, position, brushing and noise differ from image to image, so that a defect is not the only difference.
"""

from __future__ import annotations

import math
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

DEFECTS = ("chip", "scratch", "stain")
TRAIN, TEST = 120, 40
SIDE = 128


def washer(rng: np.random.Generator, defect: str | None = None, side: int = SIDE) -> Image.Image:
    """Draw one washer, gray; ``defect`` is one of :data:`DEFECTS`."""
    drawn = _drawn(rng, defect)
    small = drawn.resize((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(small, dtype=np.float64)
    noisy = pixels * _light(rng, side) + rng.normal(0, 4, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _drawn(rng: np.random.Generator, defect: str | None, side: int = 2 * SIDE) -> Image.Image:
    """Draw at twice the size, for smooth edges."""
    x, y = side / 2 + rng.uniform(-6, 6, 2)
    outer, inner = side * rng.uniform(0.38, 0.40), side * rng.uniform(0.14, 0.16)
    metal = _brushed(rng, side)
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    draw.ellipse(_around(x, y, outer), fill=255)
    draw.ellipse(_around(x, y, inner), fill=0)
    angle = rng.uniform(0, 2 * math.pi)
    middle = (outer + inner) / 2
    at_x, at_y = x + middle * math.cos(angle), y + middle * math.sin(angle)
    if defect == "chip":
        edge_x, edge_y = x + outer * math.cos(angle), y + outer * math.sin(angle)
        draw.ellipse(_around(edge_x, edge_y, side * rng.uniform(0.04, 0.07)), fill=0)
    elif defect == "scratch":
        turn, half = rng.uniform(0, math.pi), side * rng.uniform(0.07, 0.12)
        step_x, step_y = half * math.cos(turn), half * math.sin(turn)
        line = (at_x - step_x, at_y - step_y, at_x + step_x, at_y + step_y)
        ImageDraw.Draw(metal).line(line, fill=int(rng.choice([95, 240])), width=3)
    elif defect == "stain":
        metal = _stained(rng, metal, at_x, at_y)
    belt = Image.fromarray(rng.normal(60, 3, (side, side)).clip(0, 255).astype(np.uint8))
    return Image.composite(metal, belt, mask)


def _stained(rng: np.random.Generator, metal: Image.Image, x: float, y: float) -> Image.Image:
    spot = Image.new("L", metal.size, 0)
    ImageDraw.Draw(spot).ellipse(_around(x, y, metal.width * rng.uniform(0.04, 0.07)), fill=150)
    return Image.composite(Image.new("L", metal.size, 90), metal, spot.filter(ImageFilter.GaussianBlur(5)))


def _brushed(rng: np.random.Generator, side: int) -> Image.Image:
    """Draw metal with horizontal traces of brushing."""
    rows = rng.normal(0, 8, (side, 1)) + rng.normal(0, 5, (side, side))
    return Image.fromarray((175 + rows).clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))


def _light(rng: np.random.Generator, side: int) -> npt.NDArray[np.float64]:
    """Return light from one side, of varying strength."""
    across, down = np.meshgrid(*[np.linspace(-0.5, 0.5, side)] * 2)
    angle = rng.uniform(0, 2 * math.pi)
    slope = across * math.cos(angle) + down * math.sin(angle)
    light: npt.NDArray[np.float64] = rng.uniform(0.9, 1.05) * (1 + 0.25 * slope)
    return light


def _around(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def write(folder: Path, *, train: int = TRAIN, test: int = TEST, side: int = SIDE, seed: int = 0) -> None:
    """Write images in MVTec AD's layout: ``train`` normal ones, and ``test`` normal ones and of each defect."""
    rng = np.random.default_rng(seed)
    folders: list[tuple[str, str | None, int]] = [("train/good", None, train), ("test/good", None, test)]
    folders += [(f"test/{defect}", defect, test) for defect in DEFECTS]
    for name, defect, count in folders:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            washer(rng, defect, side).save(folder / name / f"{number:03}.png")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--train", default=TRAIN, show_default=True, help="Normal images to train with.")
@click.option("--test", default=TEST, show_default=True, help="Test images of each kind.")
@click.option("--side", default=SIDE, show_default=True, help="Width and height in pixels.")
def main(folder: Path, train: int, test: int, side: int) -> None:
    """Draw washers into FOLDER, to try a study with."""
    write(folder, train=train, test=test, side=side)
    click.echo(f"{folder}: {train} images in train/good, {test} each in test/good, test/{', test/'.join(DEFECTS)}")


if __name__ == "__main__":
    main()
