"""Scores of image files as a CSV table, row by row, with overlays beside it."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import torch

from puzzle_study.datasets.images import upright_size
from puzzle_study.datasets.original_sizes import OriginalSizes
from puzzle_study.datasets.records import attempt
from puzzle_study.detectors.base import Detector
from puzzle_study.errors import UserError
from puzzle_study.inference import overlay, streaming
from puzzle_study.inference.calibration import Calibration
from puzzle_study.inference.drift import Appearance, Change, Watch
from puzzle_study.inference.progress import Bar
from puzzle_study.io import replacing

COLUMNS = ("path", "score", "percentile", "flagged", "error")


@dataclass
class Outcome:
    """How many images were scored, flagged, could not be read, and differ in size from those of the training.

    ``changes`` tell in what the images as a whole differ from the validation images.
    """

    scored: int = 0
    flagged: int = 0
    unreadable: int = 0
    far: int = 0
    changes: list[Change] = field(default_factory=list)


class FileScorer:
    """A detector that scores image files at one false-positive rate.

    Args:
        detector: a calibrated detector.
        rate: false-positive rate in [0, 1), see :meth:`Calibration.threshold`.
        overlays: folder for error maps over the images; None: none.
        sizes: of the original training images, to which others are compared; None: unknown.
        appearance: of the validation images, to which others are compared; None: unknown.
    """

    def __init__(
        self,
        detector: Detector,
        rate: float,
        overlays: Path | None = None,
        sizes: OriginalSizes | None = None,
        appearance: Appearance | None = None,
    ) -> None:
        self.detector, self.rate, self.overlays = detector, rate, overlays
        self.sizes, self.appearance = sizes, appearance
        self.calibration = Calibration.of(detector)
        self.threshold = self.calibration.threshold(rate)

    def write(self, paths: Sequence[Path], table: TextIO, bar: Bar) -> Outcome:
        """Write a row for every file, in order, as soon as it is scored.

        A file that cannot be read has no score but a sentence in ``error``, which is also said on standard error.

        Raises:
            UserError: the detector reads no image files, or an overlay cannot be written.
        """
        sizing = streaming.sizing(self.detector)
        pictures = overlay.targets(paths, self.overlays) if self.overlays else {}
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        outcome, watch = Outcome(), Watch(self.calibration, self.appearance)
        for chunk in streaming.chunks(paths, sizing):
            images_NCHW = chunk.images_NCHW.to(self.detector.device)
            if self.overlays is None:
                error_NK = self.detector.error_matrix(images_NCHW)
            else:
                error_NK, map_NHW = self.detector.maps(images_NCHW)
                self._draw(chunk.readable, map_NHW, pictures)
            score_N = self.detector.scores(error_NK).double().cpu().numpy()
            watch.add(images_NCHW, score_N)
            flagged_N = score_N > self.threshold
            judged = zip(score_N, self.calibration.percentile(score_N), flagged_N, strict=True)
            for path, error in zip(chunk.paths, chunk.errors, strict=True):
                if error:
                    bar.say(f"not scored: {error}")
                    writer.writerow((path, "", "", "", error))
                else:
                    score, percentile, flagged = next(judged)
                    writer.writerow((path, f"{score:.6g}", f"{percentile:.1f}", str(flagged).lower(), ""))
            table.flush()
            bar.step(len(chunk.paths))
            outcome.scored += len(score_N)
            outcome.flagged += int(flagged_N.sum())
            outcome.far += sum(map(self._is_far, chunk.readable))
            outcome.unreadable += len(chunk.paths) - len(score_N)
        outcome.changes = watch.changes(self.rate)
        return outcome

    def _is_far(self, path: Path) -> bool:
        if self.sizes is None:
            return False
        size = attempt(lambda: upright_size(path))
        return isinstance(size, tuple) and self.sizes.is_far(*size)

    def _draw(self, paths: Sequence[Path], maps_NHW: torch.Tensor, pictures: dict[Path, Path]) -> None:
        squares = self.detector.squares and self.detector.reading.error == "mse"

        def draw(path: Path, map_HW: overlay.Map) -> None:
            overlay.write(path, pictures[path], map_HW, threshold=self.threshold, squares=squares)

        # Pillow lets go of the interpreter while it scales and compresses.
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(draw, paths, maps_NHW.cpu().numpy()))


@contextlib.contextmanager
def table_file(output: Path | None) -> Iterator[TextIO]:
    """Give standard output, or a file that is written whole or not at all, as UTF-8.

    File names that are not valid text keep their bytes.

    Raises:
        UserError: the file cannot be written.
    """
    if output is None:
        stream = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", errors="surrogateescape", newline="")
        try:
            yield stream
            stream.flush()
        finally:
            stream.detach()
        return
    try:
        with (
            replacing(output) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            yield file
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror or error}); choose another --output") from error
