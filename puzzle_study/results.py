"""The one place that knows the files below ``results/<name>/``.

Records are the truth: one JSON file per trial under the hash of what determines it. Tables are written
from records and can be deleted. Every file is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle_study.errors import UserError
from puzzle_study.io import replacing, write_arrays, write_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

RECORD_FORMAT = 2
"""2: a training draws from a seed of its own task; before, all classes shared that of the study."""
ERROR_ARRAYS = ("validation", "pseudo", "test", "pseudo_kind", "labels", "classes", "names")


def content_key(content: Mapping[str, Any], length: int = 12) -> str:
    """Return the hex digits that name a JSON-able content, independent of key order."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


class Results:
    """Paths, readers and writers of the folder ``results/<name>``; nothing is created before something is written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.study_file = root / "study.yaml"
        self.environment_file = root / "environment.json"
        self.trials_file = root / "trials.csv"
        self.epochs_file = root / "epochs.parquet"
        self.corruptions_file = root / "corruptions.csv"
        self.attacks_file = root / "attacks.csv"
        self.matrix_file = root / "aggregation_matrix.csv"
        self.transfer_file = root / "transfer.csv"
        self.summary_file = root / "summary.csv"
        self.best = root / "best"
        self.report = root / "report"
        self.report_file = root / "report" / "index.html"
        self.ray = root / "ray"
        self.optuna_file = root / "optuna.journal"
        self.gallery_file = root / "gallery.npz"
        self.logs = root / "logs"
        self.lock_file = root / ".lock"
        self._unit_records: dict[Path, dict[str, Any]] = {}

    def name(self, path: Path) -> str:
        """Return a path's name below the folder, with slashes."""
        return path.relative_to(self.root).as_posix()

    def record_file(self, trial: str) -> Path:
        """Return where the record of a trial is."""
        return self.root / "records" / f"{trial}.json"

    def errors_file(self, trial: str) -> Path:
        """Return where the error matrices of a trial are."""
        return self.root / "errors" / f"{trial}.npz"

    def checkpoints(self, trial: str) -> Path:
        """Return the folder of a running trial's checkpoints."""
        return self.root / "checkpoints" / trial

    def detector(self, trial: str) -> Path:
        """Return the folder of a finished trial's detector."""
        return self.root / "detectors" / trial

    def log_file(self, trial: str) -> Path:
        """Return the path of a trial's log; it stays when the trial has ended."""
        return self.logs / f"{trial}.log"

    def attack_file(self, key: str) -> Path:
        """Return where the record of one unit of the attack stage is."""
        return self.root / "attacks" / f"{key}.json"

    def corruption_file(self, key: str) -> Path:
        """Return where the record of one unit of the stage of corruptions is."""
        return self.root / "corruptions" / f"{key}.json"

    def record(self, trial: str) -> dict[str, Any] | None:
        """Return a trial's record, or None if there is none that can be read whole."""
        return _read_record(self.record_file(trial))

    def write_record(self, trial: str, record: Mapping[str, Any]) -> None:
        write_json(self.record_file(trial), record)

    def remove_record(self, trial: str) -> None:
        """Remove a trial's record: it is to be run again."""
        self.record_file(trial).unlink(missing_ok=True)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield every trial's record that can be read whole, those of earlier study files among them."""
        for path in sorted((self.root / "records").glob("*.json")):
            if (record := _read_record(path)) is not None:
                yield record

    def attack_record(self, key: str) -> dict[str, Any] | None:
        """Return the record of a unit of the attack stage, or None if there is none that can be read whole.

        It is read once: what lies under a key is determined by that key.
        """
        return self._unit_record(self.attack_file(key))

    def corruption_record(self, key: str) -> dict[str, Any] | None:
        """Return the record of a unit of the stage of corruptions, as :meth:`attack_record` does."""
        return self._unit_record(self.corruption_file(key))

    def _unit_record(self, path: Path) -> dict[str, Any] | None:
        if path not in self._unit_records and (record := _read_record(path)) is not None:
            self._unit_records[path] = record
        return self._unit_records.get(path)

    def environment(self) -> dict[str, Any]:
        """Return the content of environment.json, or nothing if it cannot be read whole."""
        return _read_json(self.environment_file) or {}

    def errors(self, trial: str) -> dict[str, np.ndarray]:
        """Return the error matrices of a trial.

        Returns:
            ``validation`` [Nv, K], ``pseudo`` [Np, K] and ``test`` [Nt, K], mean square errors in float32;
            ``pseudo_kind`` [Np] and ``classes``, ``names`` [Nt], strings; ``labels`` [Nt], True for anomalies.

        Raises:
            UserError: the file is missing or damaged.
        """
        import zipfile
        import zlib

        import numpy as np

        path = self.errors_file(trial)
        try:
            with np.load(path, allow_pickle=False) as archive:
                # By name, so that an archive without one of them is found damaged here.
                return {name: archive[name] for name in ERROR_ARRAYS}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is missing or damaged; delete records/{trial}.json and use --resume") from error

    def write_errors(self, trial: str, arrays: Mapping[str, np.ndarray]) -> None:
        write_arrays(self.errors_file(trial), arrays, lasting=True)

    def table(self, path: Path) -> pd.DataFrame:
        """Return one of the study's tables; ``trial`` and other names are strings, missing values NaN.

        Raises:
            UserError: the table is not there.
        """
        import pandas as pd

        names = ["trial", "configuration", "normal_class", "dataset", "detector", "status", "label", "flags"]
        names += ["source_trial", "source_configuration", "source_label"]
        try:
            if path.suffix == ".parquet":
                return pd.read_parquet(path)
            # What is missing was written as nothing; NA, None or null is the name of somebody's folder.
            frame = pd.read_csv(path, dtype=dict.fromkeys(names, str), keep_default_na=False, na_values=[""])
        except FileNotFoundError as error:
            raise UserError(
                f"{path} is not there; run the study first: python -m puzzle_study.tune STUDY.yaml"
            ) from error
        except pd.errors.EmptyDataError:
            return pd.DataFrame()
        for name in ("label", "source_label", "flags"):
            if name in frame:
                frame[name] = frame[name].fillna("")
        return frame

    def write_table(self, path: Path, frame: pd.DataFrame) -> None:
        """Write a table as CSV or Parquet, by its suffix."""
        with replacing(path) as temporary:
            if path.suffix == ".parquet":
                frame.to_parquet(temporary, index=False)
            else:
                frame.to_csv(temporary, index=False, lineterminator="\n")


def _read_record(path: Path) -> dict[str, Any] | None:
    """Return a record, or None: what is damaged or of another format counts as not done."""
    content = _read_json(path)
    return content if content is not None and content.get("format") == RECORD_FORMAT else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
