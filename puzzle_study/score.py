"""``python -m puzzle_study.score``: score images with a finished detector, or export it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from puzzle_study.cli import command, no_nan
from puzzle_study.errors import UserError

if TYPE_CHECKING:
    from puzzle_study.datasets.original_sizes import OriginalSizes
    from puzzle_study.detectors.base import Detector
    from puzzle_study.inference.files import FileScorer

EXAMPLE = """\b
Examples:
  puzzle-study score results/digits/best/3 photos/ --output scores.csv
  puzzle-study score results/mvtec/best/bottle 'line4/**/*.png' --fpr 0.01 --overlay maps
  puzzle-study score results/mvtec/best/bottle incoming/ --watch --format json
  puzzle-study score --export bottle.onnx results/mvtec/best/bottle
"""


@command(epilog=EXAMPLE)
@click.argument("detector", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, type=click.Path())
@click.option(
    "--fpr",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    callback=no_nan,
    help="Share of normal images that may be flagged; the validation scores give the threshold.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Table; without it standard output.")
@click.option(
    "--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True, help="json: JSON lines."
)
@click.option(
    "--watch",
    is_flag=True,
    help="IMAGES are folders: go on scoring what arrives in them, each file once it is written.",
)
@click.option(
    "--overlay", type=click.Path(path_type=Path, file_okay=False), help="Folder for error maps over the images (PNG)."
)
@click.option(
    "--export",
    "model",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the detector as an ONNX model: floats [N, C, H, W] in [0, 1] to scores [N].",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)
def main(
    detector: Path,
    images: tuple[str, ...],
    fpr: float,
    output: Path | None,
    form: str,
    watch: bool,
    overlay: Path | None,
    model: Path | None,
    device: str,
) -> int:
    """Score IMAGES (files, folders, glob patterns) with DETECTOR, a folder like results/NAME/best/CLASS.

    Writes a table with path, score, percentile among the validation scores, flagged, error; a score of 1 is that of a
    typical normal image. Files that cannot be read are reported and skipped. A warning counts the images whose side,
    √(width · height), is more than twice or less than half that of the training images, or whose width / height differs
    by a factor of more than 1.25. Exit codes: 0 done, 1 no image could be scored, 2 bad input, 130 interrupted; with
    --watch, Ctrl-C is the end and no interruption.
    """
    if not images and model is None:
        raise UserError("no images were given; add files, folders or glob patterns, or use --export FILE")
    if not images and (output or overlay):
        raise UserError("--output and --overlay need images to score; add files, folders or glob patterns")
    from puzzle_study.inference.arriving import watched_folders
    from puzzle_study.inference.locating import find_detector, find_images

    folder = find_detector(detector)
    watched = watched_folders(images, overlay) if watch else []
    paths = [] if watch else find_images(images)
    from puzzle_study.detectors.devices import chosen_device, keep_freed_memory
    from puzzle_study.detectors.files import load_detector

    keep_freed_memory()
    found = load_detector(folder, device=chosen_device(device))
    if model is not None:
        _export(found, folder, model, fpr)
    if not paths and not watched:
        return 0
    from puzzle_study.inference.files import FileScorer

    return _score(FileScorer(found, fpr, overlay, _sizes(folder)), paths, output, form, watched)


def _sizes(folder: Path) -> OriginalSizes | None:
    """Return how large the training images were, None for a detector that does not say so."""
    from puzzle_study.datasets.original_sizes import OriginalSizes
    from puzzle_study.detectors.files import DESCRIPTION, read_description

    try:
        return OriginalSizes.from_json(read_description(folder).get("original_sizes"))
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"{folder / DESCRIPTION} has original_sizes that are not sizes; restore it, or delete that entry"
        ) from None


def _score(scorer: FileScorer, paths: list[Path], output: Path | None, form: str, watched: list[Path]) -> int:
    """Write the table and its summary on standard error."""
    from puzzle_study.inference.arriving import arriving, until_interrupted
    from puzzle_study.inference.files import table_file
    from puzzle_study.inference.progress import Bar
    from puzzle_study.inference.rows import FORMATS

    # Rows on the same terminal are progress enough, and nobody knows how many images will arrive.
    shown = not watched and (output is not None or not sys.stdout.isatty())
    with table_file(output, growing=bool(watched)) as table, Bar("scoring", len(paths), shown=shown) as bar:
        rows = FORMATS[form](table)
        if watched:
            shared = Path(os.path.commonpath([folder.absolute() for folder in watched]))
            with until_interrupted() as stop:
                outcome = scorer.write(arriving(watched, stop), rows, bar, shared=shared)
        else:
            outcome = scorer.write([paths], rows, bar)
    if outcome.scored:
        rate = f"{outcome.scored / outcome.seconds:.3g} images a second"
        click.echo(f"{outcome.scored} images scored in {outcome.seconds:.3g} s, {rate}", err=True)
    calibration = scorer.calibration
    click.echo(
        f"{outcome.flagged} of {outcome.scored} images flagged: their scores are above {scorer.threshold:.4g}, for a "
        f"false-positive rate of {100 * scorer.rate:g} % by {len(calibration)} validation images"
        + (f"; {outcome.unreadable} not scored" if outcome.unreadable else ""),
        err=True,
    )
    if outcome.far:
        click.echo(
            f"warning: {outcome.far} of {outcome.scored} images are far in size or aspect ratio from the training "
            f"images ({scorer.sizes}), which alone may change their scores; score images taken the same way",
            err=True,
        )
    if scorer.rate < calibration.lowest_rate:
        click.echo(
            f"note: {len(calibration)} validation images cannot hold a rate below "
            f"{100 * calibration.lowest_rate:.2g} %; flagged is what scores above all of them",
            err=True,
        )
    return 0 if outcome.scored or watched else 1


def _export(detector: Detector, folder: Path, model: Path, rate: float) -> None:
    """Write the ONNX model and say what may surprise."""
    from puzzle_study.detectors.files import DESCRIPTION, read_description
    from puzzle_study.inference.export import write_onnx

    task = read_description(folder).get("task", {})
    if not isinstance(task, dict):
        raise UserError(f"{folder / DESCRIPTION} does not say what it was trained for; restore it or train again")
    write_onnx(detector, model, rate=rate, task=task)
    click.echo(f"{model}: scores of {folder}", err=True)
    if detector.precision != "float32":
        click.echo(
            f"note: the detector was calibrated in {detector.precision} and the model computes in float32; expect "
            f"scores that differ by up to about 1 %",
            err=True,
        )


if __name__ == "__main__":
    main()
