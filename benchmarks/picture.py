"""Draws the picture of the README from a finished study: images, anomaly maps, the AUROC of each detector.

    python -m benchmarks.parts data/mine
    puzzle-study init detectors_folder mine.yaml && puzzle-study tune mine.yaml --quick
    python -m benchmarks.picture results/mine data/mine docs/images/parts.png

The maps are the winner's, as ``puzzle-study score --overlay`` draws them. Intervals are those of trials.csv.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt
import pandas as pd
import torch
from PIL import Image

import puzzle_study
from benchmarks.parts import DEFECTS
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.inference.judging import Judge, Verdict

NUMBER = 2
"""Which image of each kind is shown: the same for all, so that none is picked."""
BLUE, GRAY = "#3366aa", "#aaaaaa"
COLOURS = 256


def judged(study: puzzle_study.StudyResults, images: Path) -> list[tuple[str, Path, Verdict]]:
    """Let the winner judge one image of each kind."""
    (place,) = (study.folder / "best").iterdir()
    judge = Judge(place, 0.05, torch.device("cpu"))
    files = [(kind, images / "test" / kind / f"{NUMBER:03}.png") for kind in ("good", *DEFECTS)]
    return [(kind, path, judge.judge(path.read_bytes())) for kind, path in files]


def measured(study: puzzle_study.StudyResults) -> pd.DataFrame:
    """Return a row for each detector: its AUROC under the reading chosen for it, the interval, the role."""
    ranked = study.summary.dropna(subset="rank").set_index("detector")["aggregation"]
    rows = []
    for _, trial in study.trials.iterrows():
        reading = ranked.get(trial["detector"], "avg")
        values = [100 * float(trial[f"auroc_{reading}{end}"]) for end in ("", "_low", "_high")]
        title = DETECTORS[trial["detector"]].title
        rows.append((title, *values, trial["role"] == "reference", trial["n_test"], trial["n_anomalies"]))
    columns = ["title", "auroc", "low", "high", "reference", "n", "anomalies"]
    return pd.DataFrame(rows, columns=columns).sort_values("auroc")


def draw_images(figure: Any, found: list[tuple[str, Path, Verdict]]) -> None:
    """Draw each image above its map."""
    places = figure.subplots(2, len(found), gridspec_kw={"wspace": 0.05, "hspace": 0.05})
    for (above, below), (kind, path, verdict) in zip(places.T, found, strict=True):
        above.set_title(kind, fontsize=11)
        above.imshow(Image.open(path), cmap="gray", vmin=0, vmax=255)
        assert verdict.map is not None
        below.imshow(Image.open(io.BytesIO(base64.b64decode(verdict.map))))
        said = "flagged" if verdict.flagged else "normal"
        below.set_xlabel(f"score {verdict.score:.2f}: {said}", fontsize=10)
        for place in (above, below):
            place.set(xticks=[], yticks=[])


def draw_detectors(figure: Any, rows: pd.DataFrame) -> None:
    """Draw a bar for each detector."""
    place = figure.subplots()
    low, high = rows["auroc"] - rows["low"], rows["high"] - rows["auroc"]
    colours = [GRAY if reference else BLUE for reference in rows["reference"]]
    place.barh(rows["title"], rows["auroc"], xerr=[low, high], color=colours, height=0.65, capsize=3)
    place.axvline(50, color="black", linewidth=0.8, linestyle=":")
    place.set(xlim=(0, 100), xticks=range(0, 101, 25))
    place.tick_params(labelsize=10)
    n, anomalies = int(rows["n"].iloc[0]), int(rows["anomalies"].iloc[0])
    place.set_xlabel(f"AUROC in % [95 %]; gray: references\n{n} test images, {anomalies} defective", fontsize=9)
    place.spines[["top", "right"]].set_visible(False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("results", type=click.Path(path_type=Path, exists=True))
@click.argument("images", type=click.Path(path_type=Path, exists=True))
@click.argument("target", type=click.Path(path_type=Path))
def main(results: Path, images: Path, target: Path) -> None:
    """Draw TARGET from the study in RESULTS and the folder of its IMAGES."""
    study = puzzle_study.load(results, device="cpu")
    figure = plt.figure(figsize=(12, 3.9), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.75, 1), wspace=0.03)
    draw_images(halves[0], judged(study, images))
    draw_detectors(halves[1], measured(study))
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, facecolor="white")
    Image.open(drawn).convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE).save(target, optimize=True)
    click.echo(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
