"""One image after another, as bytes of a file: its score, its place among normal images, its anomaly map."""

from __future__ import annotations

import base64
import tempfile
import threading
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from puzzle_study.datasets.images import decode, upright_size
from puzzle_study.detectors.files import load_detector
from puzzle_study.errors import UserError
from puzzle_study.inference import overlay, streaming
from puzzle_study.inference.files import FileScorer


@dataclass(frozen=True)
class Verdict:
    """What is said of an image.

    Attributes:
        score: 1 is a typical normal image.
        percentile: per cent of the validation scores that are at most this one.
        flagged: whether the score is above the threshold.
        threshold: see :meth:`~puzzle_study.inference.calibration.Calibration.threshold`.
        validation_images: how many images the threshold rests on.
        map: the image with its anomaly map over it, a PNG file in base64; None if the detector has no maps.
    """

    score: float
    percentile: float
    flagged: bool
    threshold: float
    validation_images: int
    map: str | None


class Judge:
    """A saved detector that judges images, one at a time whoever asks; it is loaded for the first one.

    Args:
        folder: the detector's.
        rate: false-positive rate in [0, 1).
        device: where to compute.
    """

    def __init__(self, folder: Path, rate: float, device: torch.device) -> None:
        self.folder, self.rate, self.device = folder, rate, device
        self._turn = threading.Lock()

    @cached_property
    def _scorer(self) -> FileScorer:
        return FileScorer(load_detector(self.folder, device=self.device), self.rate)

    def judge(self, content: bytes) -> Verdict:
        """Judge the content of an image file.

        Raises:
            UserError: it is no image that can be read, the detector is damaged or reads no image files, or memory is
                too small.
        """
        with self._turn, tempfile.TemporaryDirectory(prefix="puzzle_study_") as folder:
            path = Path(folder) / "image"
            path.write_bytes(content)
            try:
                with warnings.catch_warnings():
                    # Pillow's, of large images and damaged EXIF blocks.
                    warnings.simplefilter("ignore")
                    return self._judged(path)
            except UserError as error:
                raise UserError(str(error).replace(str(path), "this file")) from None

    def _judged(self, path: Path) -> Verdict:
        scorer = self._scorer
        detector, calibration = scorer.detector, scorer.calibration
        image_1CHW = torch.from_numpy(decode(path, streaming.sizing(detector)).copy())[None]
        picture = None
        if detector.traits.maps:
            error_1K, map_1HW = detector.maps(image_1CHW)
            squares, target = detector.squares and detector.reading.error == "mse", path.with_name("map.png")
            map_HW, size = map_1HW[0].cpu().numpy(), upright_size(path)
            overlay.write(path, target, map_HW, size=size, threshold=scorer.threshold, squares=squares)
            picture = base64.b64encode(target.read_bytes()).decode()
        else:
            error_1K = detector.error_matrix(image_1CHW)
        score_1 = detector.scores(error_1K).double().cpu().numpy()
        return Verdict(
            score=float(score_1[0]),
            percentile=float(calibration.percentile(score_1)[0]),
            flagged=bool(score_1[0] > scorer.threshold),
            threshold=scorer.threshold,
            validation_images=len(calibration),
            map=picture,
        )
