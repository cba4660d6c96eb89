"""``python -m puzzle_study.score``: score images with a finished detector, recalibrate it, or export it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from puzzle_study.cli import command, device_option, fpr_option
from puzzle_study.errors import UserError

if TYPE_CHECKING:
    from puzzle_study.datasets.original_sizes import OriginalSizes
    from puzzle_study.detectors.base import Detector
    from puzzle_study.inference.drift import Appearance
    from puzzle_study.inference.files import FileScorer, Outcome

EXAMPLE = """\b
Examples:
  puzzle-study score results/digits/best/3 photos/ --output scores.csv
  puzzle-study score results/mvtec/best/bottle 'line4/**/*.png' --fpr 0.01 --overlay maps
  puzzle-study score results/mvtec/best/bottle incoming/ --watch --format json
  puzzle-study score results/mvtec/best/bottle new_lamp/good/ --recalibrate bottle_new_lamp
  puzzle-study score --export bottle.onnx results/mvtec/best/bottle
  puzzle-study score --export-mlflow bottle_model results/mvtec/best/bottle
"""


@command(epilog=EXAMPLE)
@click.argument("detector", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, type=click.Path())
@fpr_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the table to this file instead of standard output.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "json"]),
    default="csv",
    show_default=True,
    help="Table as CSV or as JSON lines.",
)
@click.option(
    "--watch",
    is_flag=True,
    help="IMAGES are folders: keep scoring the files that arrive in them, each once it is completely written.",
)
@click.option(
    "--overlay",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the images with their anomaly maps drawn over them (PNG).",
)
@click.option(
    "--export",
    "model",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the detector as an ONNX model: floats [N, C, H, W] in [0, 1] to scores [N].",
)
@click.option(
    "--export-mlflow",
    "mlflow_model",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the detector as an MLflow model into a new folder: uint8 [N, C, H, W] to scores [N].",
)
@click.option(
    "--recalibrate",
    "renewed",
    type=click.Path(path_type=Path, file_okay=False),
    help="Do not score, but set the threshold again from IMAGES, all normal, without training; write the new detector "
    "to this folder, which must not exist.",
)
@device_option
def main(
    detector: Path,
    images: tuple[str, ...],
    fpr: float,
    output: Path | None,
    form: str,
    watch: bool,
    overlay: Path | None,
    model: Path | None,
    mlflow_model: Path | None,
    renewed: Path | None,
    device: str,
) -> int:
    """Score IMAGES (files, folders, glob patterns) with DETECTOR, a folder like results/NAME/best/CLASS.

    Writes a table with path, score, percentile among the validation scores, flagged, error. A score of 1 is that of a
    typical normal image. Files that cannot be read are reported and skipped. A warning counts the images whose size,
    √(width · height), is more than twice or less than half that of the training images, or whose width / height differs
    by more than a factor of 1.25. Another warning says if brightness, contrast, sharpness, scores or the share flagged
    have drifted from the validation images (docs/drift.md). Exit codes: 0 done, 1 no image could be scored, 2 bad
    input, 130 interrupted; with --watch, Ctrl-C ends the scoring, with exit code 0.
    """
    exporting = model is not None or mlflow_model is not None
    if not images and not exporting:
        raise UserError(
            "no images were given; add files, folders or glob patterns, or use --export FILE or --export-mlflow FOLDER"
        )
    if not images and (output or overlay):
        raise UserError("--output and --overlay need images to score; add files, folders or glob patterns")
    if renewed and (output or overlay or exporting or watch):
        raise UserError(
            "--recalibrate scores and exports nothing; leave out --output, --overlay, --export, "
            "--export-mlflow, --watch"
        )
    from puzzle_study.inference.arriving import watched_folders
    from puzzle_study.inference.locating import find_detector, find_images

    folder = find_detector(detector)
    watched = watched_folders(images, overlay) if watch else []
    paths = [] if watch else find_images(images)
    from puzzle_study.detectors.devices import chosen_device, keep_freed_memory
    from puzzle_study.detectors.files import load_detector

    keep_freed_memory()
    found = load_detector(folder, device=chosen_device(device))
    if renewed is not None:
        return _recalibrate(found, folder, paths, fpr, renewed)
    if exporting:
        _export(found, folder, model, mlflow_model, fpr)
    if not paths and not watched:
        return 0
    from puzzle_study.inference.files import FileScorer

    return _score(FileScorer(found, fpr, overlay, *_known_of(folder)), folder, paths, output, form, watched)


def _known_of(folder: Path) -> tuple[OriginalSizes | None, Appearance | None]:
    """Return how large the training images were and how validation images look; None if a detector does not say so."""
    from puzzle_study.datasets.original_sizes import OriginalSizes
    from puzzle_study.detectors.files import DESCRIPTION, read_description
    from puzzle_study.inference.drift import Appearance

    description = read_description(folder)
    try:
        sizes = OriginalSizes.from_json(description.get("original_sizes"))
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"{folder / DESCRIPTION} has original_sizes that are not sizes; restore it, or delete that entry"
        ) from None
    try:
        return sizes, Appearance.from_json(description.get("appearance"))
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"{folder / DESCRIPTION} has an appearance that is not one; restore it, or delete that entry"
        ) from None


def _recalibrate(detector: Detector, folder: Path, paths: list[Path], rate: float, target: Path) -> int:
    """Write the recalibrated detector into a new folder, and say what its threshold promises."""
    from puzzle_study.detectors.files import read_description, save
    from puzzle_study.inference.progress import Bar
    from puzzle_study.inference.recalibration import recalibrate_by_files

    if target.exists():
        raise UserError(f"{target} exists; name a new folder for --recalibrate")
    with Bar("recalibrating", len(paths)) as bar:
        done = recalibrate_by_files(detector, paths, rate, bar)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".recalibrated-", dir=target.parent) as temporary:
            staged = Path(temporary, target.name)
            staged.mkdir()
            save(detector, staged, read_description(folder) | done.description())
            staged.rename(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}); choose another folder") from error
    click.echo(f"{target}: {done}", err=True)
    return 0


def _score(
    scorer: FileScorer, folder: Path, paths: list[Path], output: Path | None, form: str, watched: list[Path]
) -> int:
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
            click.echo(f"watching {', '.join(map(str, watched))}; Ctrl-C ends it", err=True)
            with until_interrupted() as stop:
                outcome = scorer.write(arriving(watched, stop), rows, bar, shared=shared)
        else:
            outcome = scorer.write([paths], rows, bar)
    if not outcome.scored:
        click.echo(f"no image was scored; {outcome.unreadable} cannot be read", err=True)
        return 0 if watched else 1
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
    if outcome.changes:
        _warn_of_drift(outcome, scorer.detector, folder)
    if scorer.rate < calibration.lowest_rate:
        click.echo(
            f"note: {len(calibration)} validation images cannot hold a rate below "
            f"{100 * calibration.lowest_rate:.2g} %; flagged is what scores above all of them",
            err=True,
        )
    return 0


def _warn_of_drift(outcome: Outcome, detector: Detector, folder: Path) -> None:
    """Say what has changed, and what the detector's study has measured of such a change."""
    from puzzle_study.detectors.files import read_description
    from puzzle_study.inference.drift import sentence
    from puzzle_study.inference.foreseen import foreseen
    from puzzle_study.results import Results

    study = Results(folder.resolve().parent.parent)
    known = foreseen(outcome.changes, study.corruptions_file, str(read_description(folder).get("trial")), detector)
    click.echo(f"warning: {sentence(outcome.changes, outcome.scored)}{known and f'; {known}'}", err=True)


def _export(detector: Detector, folder: Path, onnx: Path | None, mlflow: Path | None, rate: float) -> None:
    """Write the models that were asked for, and say what may surprise."""
    from puzzle_study.detectors.files import DESCRIPTION, read_description

    task = read_description(folder).get("task", {})
    if not isinstance(task, dict):
        raise UserError(f"{folder / DESCRIPTION} does not say what it was trained for; restore it or train again")
    if onnx is not None:
        from puzzle_study.inference.export import write_onnx

        write_onnx(detector, onnx, rate=rate, task=task)
        click.echo(f"{onnx}: scores of {folder}", err=True)
        if detector.precision != "float32":
            click.echo(
                f"note: the detector was calibrated in {detector.precision} and the ONNX model computes in float32; "
                f"expect scores that differ by up to about 1 %",
                err=True,
            )
    if mlflow is not None:
        from puzzle_study.inference.mlflow_model import write_mlflow

        write_mlflow(detector, folder, mlflow, rate=rate, task=task)
        click.echo(f"{mlflow}: MLflow model of {folder}; mlflow.pyfunc.load_model({str(mlflow)!r}) loads it", err=True)


if __name__ == "__main__":
    main()
