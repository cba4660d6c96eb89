"""Reading the files of a study for its report; what a study did not do is None."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from puzzle_study import config, studyfile
from puzzle_study.errors import UserError
from puzzle_study.reporting.study_data import StudyData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from puzzle_study.results import Results


def load(results: Results) -> StudyData:
    """Read all files of a study.

    Raises:
        UserError: trials.csv or summary.csv is missing.
    """
    trials = _table(results, results.trials_file)
    summary = _table(results, results.summary_file)
    if not len(trials) or not len(summary):
        raise UserError(f"{results.root} holds no trials; run the study first: python -m puzzle_study.tune STUDY.yaml")
    if "repeat" not in trials:
        trials["repeat"] = 0
    for name in ("label", "aggregation"):
        summary[name] = summary[name].fillna("").astype(str) if name in summary else ""
    for name in ("rank", "auroc_mean", "selection_mean", "trials", "expected"):
        summary[name] = pd.to_numeric(summary[name], errors="coerce") if name in summary else np.nan
    # A column of true, false and nothing is read as text; nothing is not complete.
    summary["complete"] = summary["complete"].astype(str).str.lower() == "true" if "complete" in summary else False
    return StudyData(
        results=results,
        study=_study(results),
        environment=results.environment(),
        trials=trials,
        summary=summary,
        epochs=_optional(results, "epochs_file"),
        attacks=_optional(results, "attacks_file"),
        aggregation_matrix=_optional(results, "matrix_file"),
        transfer=_optional(results, "transfer_file"),
        gallery=_gallery(results),
    )


def _table(results: Results, path: Path) -> pd.DataFrame:
    """Read a table, or say which one is damaged."""
    try:
        return results.table(path)
    except (OSError, ValueError) as error:
        sentence = f"{path} is damaged; delete it and write it anew from the records with tune STUDY.yaml --resume"
        raise UserError(sentence) from error


def _study(results: Results) -> config.Study | None:
    return studyfile.load_dumped(results.study_file) if results.study_file.exists() else None


def _optional(results: Results, name: str) -> pd.DataFrame | None:
    path = getattr(results, name)
    frame = _table(results, path) if path.exists() else None
    return frame if frame is not None and len(frame) else None


def _gallery(results: Results) -> dict[str, NDArray[Any]] | None:
    if not results.gallery_file.exists():
        return None
    try:
        with results.gallery_file.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{results.gallery_file} is damaged; delete it and build it anew with --resume") from error
