"""Scores of image files as a table, row by row, with optional overlays."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
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
from puzzle_study.inference.rows import Rows
from puzzle_study.io import replacing


@dataclass
class Outcome:
    """How many images were scored, were flagged, were unreadable, and differ in size from the training images.

    ``seconds`` is the time for scoring, without waiting for images to arrive. ``changes`` tell how the images as a
    whole differ from the validation images.
    """

    seconds: float = 0.0
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
        sizes: of the original training images, for comparison; None: unknown.
        appearance: of the validation images, for comparison; None: unknown.
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

    def write(self, batches: Iterable[Sequence[Path]], rows: Rows, bar: Bar, *, shared: Path | None = None) -> Outcome:
        """Write a row for every file, in order, as soon as it is scored.

        An unreadable file has no score but a sentence in ``error``, which is also printed on standard error.

        Args:
            batches: the files; each batch is requested when the one before is scored.
            rows: receives the rows.
            bar: counts them.
            shared: the common folder of all files if there are several batches, see :func:`overlay.targets`.

        Raises:
            UserError: the detector cannot read image files, or an overlay cannot be written.
        """
        outcome, watch = Outcome(), Watch(self.calibration, self.appearance)
        for chunk, pictures in self._chunks(batches, shared, outcome):
            images_NCHW = chunk.images_NCHW.to(self.detector.device)
            if self.overlays is None:
                error_NK = self.detector.error_matrix(images_NCHW)
            else:
                error_NK, map_NHW = self.detector.maps(images_NCHW)
                self._draw(chunk.readable, map_NHW, pictures)
            score_N = self.detector.scores(error_NK).double().cpu().numpy()
            if len(score_N):
                watch.add(images_NCHW, score_N)
            flagged_N = score_N > self.threshold
            judged = zip(score_N, self.calibration.percentile(score_N), flagged_N, strict=True)
            for path, error in zip(chunk.paths, chunk.errors, strict=True):
                if error:
                    bar.say(f"not scored: {error}")
                    rows.unreadable(path, error)
                else:
                    score, percentile, flagged = next(judged)
                    rows.scored(path, float(score), float(percentile), bool(flagged))
            rows.table.flush()
            bar.step(len(chunk.paths))
            outcome.scored += len(score_N)
            outcome.flagged += int(flagged_N.sum())
            outcome.far += sum(map(self._is_far, chunk.readable))
            outcome.unreadable += len(chunk.paths) - len(score_N)
        outcome.changes = watch.changes(self.rate)
        return outcome

    def _chunks(
        self, batches: Iterable[Sequence[Path]], shared: Path | None, outcome: Outcome
    ) -> Iterator[tuple[streaming.Chunk, dict[Path, Path]]]:
        """Yield decoded files with where their overlays go, and count the time until the next batch is asked for."""
        sizing = streaming.sizing(self.detector)
        for paths in batches:
            began = time.perf_counter()
            pictures = overlay.targets(paths, self.overlays, shared=shared) if self.overlays else {}
            for chunk in streaming.chunks(paths, sizing):
                yield chunk, pictures
            outcome.seconds += time.perf_counter() - began

    def _is_far(self, path: Path) -> bool:
        if self.sizes is None:
            return False
        size = attempt(lambda: upright_size(path))
        return isinstance(size, tuple) and self.sizes.is_far(*size)

    def _draw(self, paths: Sequence[Path], maps_NHW: torch.Tensor, pictures: dict[Path, Path]) -> None:
        squares = self.detector.squares and self.detector.reading.error == "mse"

        def draw(path: Path, map_HW: overlay.Map, size: tuple[int, int]) -> None:
            overlay.write(path, pictures[path], map_HW, size=size, threshold=self.threshold, squares=squares)

        # Pillow releases the interpreter's lock while it scales and compresses.
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(draw, paths, maps_NHW.cpu().numpy(), map(upright_size, paths)))


@contextlib.contextmanager
def table_file(output: Path | None, *, growing: bool = False) -> Iterator[TextIO]:
    """Give standard output, or a file that is written atomically or, if ``growing``, row by row, as UTF-8.

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
            contextlib.nullcontext(output) if growing else replacing(output) as place,
            place.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            yield file
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror or error}); choose another --output") from error
