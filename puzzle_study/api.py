"""Studies from Python: run one, and read its results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle_study.errors import UserError, cut, suggestion
from puzzle_study.results import Results

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from puzzle_study import config
    from puzzle_study.inference.estimator import DetectorEstimator


class StudyResults:
    """A study's results: tables as DataFrames, error matrices as arrays, detectors as estimators.

    A running study has the rows of its tables' last writing.

    Args:
        folder: ``results/NAME``.
        device: ``auto``, ``cpu`` or ``cuda``, for the detectors.

    Attributes:
        folder: the folder.
        device: as given.

    Raises:
        UserError: the folder has no study.
    """

    def __init__(self, folder: str | Path, *, device: str = "auto") -> None:
        self.folder, self.device = Path(folder), device
        self._results = Results(self.folder)
        if not self._results.study_file.is_file():
            raise UserError(f"{folder} has no study ({self._results.study_file.name} is missing); give results/NAME")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r})"

    @property
    def study(self) -> config.Study:
        """The resolved study with all its settings."""
        from puzzle_study.config import read

        return read.load_dumped(self._results.study_file)

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial, including references; ``trial`` is its key."""
        return self._results.table(self._results.trials_file)

    @property
    def summary(self) -> pd.DataFrame:
        """A row for each configuration and aggregation: AUROC with interval, selection score, rank."""
        return self._results.table(self._results.summary_file)

    @property
    def epochs(self) -> pd.DataFrame:
        """A row for each epoch of each training: losses, AUROC."""
        return self._results.table(self._results.epochs_file)

    @property
    def attacks(self) -> pd.DataFrame:
        """A row for each attack on each attacked trial; empty if the study attacks nothing."""
        return self._results.table(self._results.attacks_file)

    @property
    def report(self) -> Path:
        """The report's page."""
        return self._results.report_file

    def errors(self, trial: str) -> dict[str, np.ndarray]:
        """Return a trial's error matrices, from which every score and metric can be computed again.

        Args:
            trial: its key, from the column ``trial``.

        Returns:
            ``validation`` [V, K], ``pseudo`` [P, K] and ``test`` [N, K], float32, one column for each view;
            ``earlier`` [E, V, K], those of the validation images at evaluations before the last one; ``pseudo_kind``
            [P], ``classes`` [N] and ``names`` [N], strings; ``pseudo_severity`` [P], from 1; ``labels`` [N], True for
            anomalies.

        Raises:
            UserError: the trial does not exist, or its matrices are missing or damaged.
        """
        known = list(self.trials["trial"])
        if trial not in known:
            near = suggestion(trial, known) or "; the column `trial` of .trials has the keys"
            raise UserError(f"{self.folder} has no trial {cut(repr(trial))}{near}")
        return self._results.errors(trial)

    def detector(self, name: str | None = None) -> DetectorEstimator:
        """Return a fitted detector as a scikit-learn estimator.

        Args:
            name: a folder of ``best/``, usually the normal class: the winner's detector; or the key of a trial. None:
                the only one in ``best/``.

        Raises:
            UserError: the detector does not exist, there are several, or it is damaged.
        """
        from puzzle_study.inference import estimator
        from puzzle_study.inference.locating import detectors_in

        if name is None:
            return estimator.load(self.folder, device=self.device)
        best = [place.name for place in detectors_in(self._results.best)]
        if name in best:
            return estimator.load(self._results.best / name, device=self.device)
        if name not in set(self.trials["trial"]):
            raise UserError(
                f"{self.folder} has no detector {cut(repr(name))}; it has {', '.join(best) or 'none in best/'}, and "
                f"that of each trial under its key"
            )
        return estimator.load(self._results.detector(name), device=self.device)


def run(
    study: str | Path | Mapping[str, Any],
    *,
    settings: Mapping[str, Any] | None = None,
    quick: bool = False,
    results: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> StudyResults:
    """Run a study to its report, like ``puzzle-study tune``, and return its results.

    A finished study is only read. A failed trial does not raise: its row of ``trials`` gives the reason.

    Args:
        study: a study file, the name of a study of this package (``"digits"``), or the content of a study file.
        settings: settings to change, nested or by dotted name, such as ``{"train.epochs": 10}``.
        quick: apply the study's own ``quick`` section.
        results: parent folder of the study's own folder; None: the study's ``storage``, otherwise ``results``.
        resume: continue an interrupted study.
        quiet: print no progress; without it a notebook shows a line for each finished trial and every 30 seconds.

    Raises:
        UserError: the study cannot be run as requested; one sentence says what, where and how to fix it.
        KeyboardInterrupt: it was interrupted; ``resume=True`` continues.
    """
    from puzzle_study.cli import INTERRUPTED, console
    from puzzle_study.config import layers, read, shipped
    from puzzle_study.study.engine import TERMINATED, run_study
    from puzzle_study.study.storage import results_folder

    source = study if isinstance(study, Mapping) else shipped.find(Path(study))
    changes = [f"{name}={_as_yaml(name, value)}" for name, value in layers.leaves(dict(settings or {})).items()]
    file = read.load(source, quick=quick, assignments=changes)
    folder = results_folder(None if results is None else Path(results), file.study.storage)
    if run_study(file, folder, resume=resume, console=console(quiet=quiet)) in (INTERRUPTED, TERMINATED):
        raise KeyboardInterrupt
    return StudyResults(folder / file.study.name)


def load(folder: str | Path, *, device: str = "auto") -> Any:
    """Load a study's results (``results/NAME``) or a detector (``results/NAME/best/CLASS``) from a folder.

    Weights are read only as data.

    Args:
        folder: a study's folder, a detector's, one that ``save`` of an estimator wrote, or one with a single detector.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        :class:`StudyResults`, or a :class:`~puzzle_study.inference.estimator.DetectorEstimator`.

    Raises:
        UserError: the folder has neither, or the detector is damaged.
    """
    if Results(Path(folder)).study_file.is_file():
        return StudyResults(folder, device=device)
    from puzzle_study.inference import estimator

    return estimator.load(folder, device=device)


def _as_yaml(name: str, value: Any) -> str:
    """Return a value in the form of an assignment; JSON is YAML."""
    try:
        return json.dumps(value)
    except TypeError as error:
        raise UserError(f"settings: {name} has a value that a study file cannot contain ({error})") from error
