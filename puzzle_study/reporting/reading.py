"""Reads a study's files for its report; anything that a study did not do is None."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from puzzle_study.config import read
from puzzle_study.errors import UserError
from puzzle_study.reporting.choice import AGGREGATIONS
from puzzle_study.reporting.study_data import StudyData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from puzzle_study.results import Results

REPAIR = "delete it and run tune STUDY.yaml --resume, which writes it again from the records"
OF_TRIALS = ("trial", "configuration", "role", "detector", "status", "dataset", "normal_class", "seed")
OF_FINISHED = (
    *("epochs", "train_seconds"),
    *(f"auroc_{way}{end}" for way in AGGREGATIONS for end in ("", "_low", "_high")),
    *(f"last20_{way}{end}" for way in AGGREGATIONS for end in ("_mean", "_std")),
    *(f"{name}_{way}" for way in AGGREGATIONS for name in ("average_precision", "selection")),
    *(f"fpr_at_tpr{tpr}_{way}" for way in AGGREGATIONS for tpr in ("95", "99", "995")),
)
OF_ATTACKS = (
    *("configuration", "label", "trial", "dataset", "normal_class", "error", "attack", "method", "epsilon"),
    *("auroc", "auroc_low", "auroc_high", "auroc_clean", "images"),
)
OF_VICTIM = ("configuration", "label", "trial", "dataset", "normal_class", "aggregation", "error")
OF_SOURCE = ("source_configuration", "source_label", "source_aggregation", "source_error")
NEEDED = {
    "trials_file": OF_TRIALS,
    "summary_file": ("configuration", "role", "detector"),
    "selection_file": ("scope", "criterion", "selected", "uses_labels", "chosen", "auroc", "agreement"),
    "epochs_file": ("trial", "epoch", *(f"auroc_{way}" for way in AGGREGATIONS)),
    "attacks_file": (*OF_ATTACKS, "aggregation", "target", "steps", "fpr_at_tpr99", "max_perturbation", "flags"),
    "matrix_file": (*OF_ATTACKS, "attacked_aggregation", "scoring_aggregation"),
    "corruptions_file": (
        *("configuration", "label", "trial", "dataset", "normal_class", "detector", "aggregation", "error"),
        *("corruption", "severity", "value", "n_normal", "n_anomalous"),
        *(f"{name}{end}" for name in ("auroc", "flagged_normal", "flagged_anomalous") for end in ("", "_low", "_high")),
    ),
    "transfer_file": (*OF_ATTACKS, "aggregation", *OF_SOURCE),
    "smallest_file": (*OF_VICTIM, "method", "epsilon", "anomalous", "epsilon_image", "epsilon_half"),
    "certified_file": (
        *(*OF_VICTIM, "sigma", "samples", "alpha", "target", "images", "radius"),
        *("auroc", "auroc_smoothed", "flagged_normal", "flagged_anomalous"),
    ),
}
"""Columns that a table needs, by the name of its path in ``Results``."""
CHANGED = (
    *("attacks_file", "matrix_file", "transfer_file", "smallest_file", "certified_file"),
    "corruptions_file",
)
"""Tables of changed test images, which a study may lack."""
OF_GALLERY = ("original", "kind", "normal_class", "true_class", "score")
OF_ATTACKED = ("original", "attack", "method", "epsilon", "score_before", "score_after")


def load(results: Results, environment: Mapping[str, Any] | None = None) -> StudyData:
    """Read all files of a study.

    Args:
        results: its folder.
        environment: future content of ``environment.json``; None: its present content.

    Raises:
        UserError: trials.csv or summary.csv is missing, or a file is damaged or incomplete.
    """
    trials = _table(results, "trials_file")
    summary = _table(results, "summary_file")
    if not len(trials) or not len(summary):
        raise UserError(f"{results.root} has no trials; run the study first: python -m puzzle_study.tune STUDY.yaml")
    if (trials["status"] == "finished").any():
        _has("column", OF_FINISHED, trials.columns, results.trials_file)
    if "repeat" not in trials:
        trials["repeat"] = 0
    for name in ("label", "aggregation", "wins"):
        summary[name] = summary[name].fillna("").astype(str) if name in summary else ""
    for name in ("rank", "auroc_mean", "selection_mean", "goodness", "trials", "expected"):
        summary[name] = pd.to_numeric(summary[name], errors="coerce") if name in summary else np.nan
    changed = {name: _optional(results, name) for name in CHANGED}
    repeats = trials[["trial", "repeat"]].drop_duplicates("trial")
    attacks, matrix, transfer, smallest, certified, corruptions = (
        None if frame is None else frame.merge(repeats, on="trial", how="left") for frame in changed.values()
    )
    # A column of true, false and empty cells is read as text; empty means not complete.
    summary["complete"] = summary["complete"].astype(str).str.lower() == "true" if "complete" in summary else False
    return StudyData(
        results=results,
        study=read.load_dumped(results.study_file) if results.study_file.exists() else None,
        environment=dict(results.environment() if environment is None else environment),
        trials=trials,
        summary=summary,
        gaps=_optional(results, "selection_file"),
        epochs=_optional(results, "epochs_file"),
        attacks=attacks,
        aggregation_matrix=matrix,
        transfer=transfer,
        smallest=smallest,
        certified=certified,
        corruptions=corruptions,
        gallery=_gallery(results),
    )


def _table(results: Results, name: str) -> pd.DataFrame:
    """Read a table; raise UserError if it is damaged or lacks a column."""
    path: Path = getattr(results, name)
    try:
        table = results.table(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged; {REPAIR}") from error
    if len(table):
        _has("column", NEEDED[name], table.columns, path)
    return table


def _has(what: str, needed: Iterable[str], names: Container[str], path: Path, repair: str = REPAIR) -> None:
    """Refuse a file that lacks what the report reads from it."""
    missing = next((name for name in needed if name not in names), None)
    if missing is not None:
        raise UserError(f"{path} has no {what} {missing}; {repair}")


def _optional(results: Results, name: str) -> pd.DataFrame | None:
    frame = _table(results, name) if getattr(results, name).exists() else None
    return frame if frame is not None and len(frame) else None


def _gallery(results: Results) -> dict[str, NDArray[Any]] | None:
    if not results.gallery_file.exists():
        return None
    repair = "delete it and run tune STUDY.yaml --resume, which builds it again"
    try:
        with results.gallery_file.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            gallery = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{results.gallery_file} is damaged; {repair}") from error
    attacked = (f"attacked_{name}" for name in OF_ATTACKED) if "attacked" in gallery else ()
    _has("array", (*OF_GALLERY, *attacked), gallery, results.gallery_file, repair)
    return gallery
