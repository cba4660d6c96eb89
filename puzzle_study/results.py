"""The only module that knows the files below ``results/<name>/``.

The records are authoritative: one JSON file per trial, named by the hash of everything that determines it. Tables are
made from records and can be deleted. Every file is written atomically.
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

RECORD_FORMAT = 4
"""4: error matrices have a column for each view, whatever number of them scores;
3: a bank of pseudo-anomalies of many kinds; 2: a training draws from a seed of its own task, not the study's."""
MODEL_CARD = "MODEL_CARD.md"
"""In each folder of ``best/``, for people."""
ERROR_ARRAYS = (
    *("validation", "earlier", "pseudo", "test"),
    *("pseudo_kind", "pseudo_severity", "labels", "classes", "names"),
)


def content_key(content: Mapping[str, Any], length: int = 12) -> str:
    """Return a hash of JSON content in hex digits, independent of key order."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


class Results:
    """Paths, readers and writers of the folder ``results/<name>``; folders are created only on writing."""

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
        self.certified_file = root / "certified.csv"
        self.smallest_file = root / "smallest_epsilon.csv"
        self.summary_file = root / "summary.csv"
        self.selection_file = root / "selection.csv"
        self.best = root / "best"
        self.report = root / "report"
        self.report_file = root / "report" / "index.html"
        self.ray = root / "ray"
        self.optuna_file = root / "optuna.journal"
        self.gallery_file = root / "gallery.npz"
        self.logs = root / "logs"
        self.lock_file = root / ".lock"
        self._unit_records: dict[Path, dict[str, Any]] = {}

    @property
    def attack_tables(self) -> tuple[Path, ...]:
        """Return the tables of the attack stage, the first of which every study with attacks has."""
        return self.attacks_file, self.matrix_file, self.transfer_file, self.smallest_file, self.certified_file

    def name(self, path: Path) -> str:
        """Return a path's name below the folder, with slashes."""
        return path.relative_to(self.root).as_posix()

    def record_file(self, trial: str) -> Path:
        """Return the path of a trial's record."""
        return self.root / "records" / f"{trial}.json"

    def errors_file(self, trial: str) -> Path:
        """Return the path of a trial's error matrices."""
        return self.root / "errors" / f"{trial}.npz"

    def checkpoints(self, trial: str) -> Path:
        """Return the folder of a running trial's checkpoints."""
        return self.root / "checkpoints" / trial

    def detector(self, trial: str) -> Path:
        """Return the folder of a finished trial's detector."""
        return self.root / "detectors" / trial

    def log_file(self, trial: str) -> Path:
        """Return the path of a trial's log, which is kept after the trial."""
        return self.logs / f"{trial}.log"

    def attack_file(self, key: str) -> Path:
        """Return the path of the record of an attack unit."""
        return self.root / "attacks" / f"{key}.json"

    def attacked_images_file(self, key: str) -> Path:
        """Return where the perturbed images of a unit of the attack stage are, if all are kept."""
        return self.root / "attacks" / f"{key}.images.npz"

    def corruption_file(self, key: str) -> Path:
        """Return where the record of one unit of the stage of corruptions is."""
        return self.root / "corruptions" / f"{key}.json"

    def record(self, trial: str) -> dict[str, Any] | None:
        """Return a trial's record, or None if it is missing or damaged."""
        return _read_record(self.record_file(trial))

    def write_record(self, trial: str, record: Mapping[str, Any]) -> None:
        write_json(self.record_file(trial), record)

    def remove_record(self, trial: str) -> None:
        """Remove a trial's record, so that the trial runs again."""
        self.record_file(trial).unlink(missing_ok=True)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield every readable trial record, including those of earlier study files."""
        for path in sorted((self.root / "records").glob("*.json")):
            if (record := _read_record(path)) is not None:
                yield record

    def attack_record(self, key: str) -> dict[str, Any] | None:
        """Return an attack unit's record, read once because its key determines it; None if missing or damaged."""
        return self._unit_record(self.attack_file(key))

    def corruption_record(self, key: str) -> dict[str, Any] | None:
        """Return the record of a unit of the stage of corruptions, as :meth:`attack_record` does."""
        return self._unit_record(self.corruption_file(key))

    def _unit_record(self, path: Path) -> dict[str, Any] | None:
        if path not in self._unit_records and (record := _read_record(path)) is not None:
            self._unit_records[path] = record
        return self._unit_records.get(path)

    def environment(self) -> dict[str, Any]:
        """Return the content of environment.json, empty if it is missing or damaged."""
        return _read_json(self.environment_file) or {}

    def errors(self, trial: str) -> dict[str, np.ndarray]:
        """Return a trial's error matrices.

        Returns:
            ``validation`` [Nv, K], ``pseudo`` [Np, K] and ``test`` [Nt, K], mean square errors in float32;
            ``earlier`` [E, Nv, K], those of the validation images at evaluations before the last one;
            ``pseudo_kind`` [Np] and ``classes``, ``names`` [Nt], strings; ``pseudo_severity`` [Np], from 1;
            ``labels`` [Nt], True for anomalies.

        Raises:
            UserError: the file is missing or damaged.
        """
        import zipfile
        import zlib

        import numpy as np

        path = self.errors_file(trial)
        try:
            with np.load(path, allow_pickle=False) as archive:
                # By name, to detect an archive with a missing array here.
                return {name: archive[name] for name in ERROR_ARRAYS}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is missing or damaged; delete records/{trial}.json and use --resume") from error

    def write_errors(self, trial: str, arrays: Mapping[str, np.ndarray]) -> None:
        write_arrays(self.errors_file(trial), arrays, lasting=True)

    def table(self, path: Path) -> pd.DataFrame:
        """Return one of the study's tables; ``trial`` and other names are strings, missing values NaN.

        Raises:
            UserError: the table is missing.
        """
        import pandas as pd

        names = ["trial", "configuration", "normal_class", "dataset", "detector", "status", "label", "flags", "wins"]
        names += ["source_trial", "source_configuration", "source_label", "training"]
        try:
            if path.suffix == ".parquet":
                return pd.read_parquet(path)
            # Missing values were written as empty cells; NA, None or null may be a folder's name.
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
        """Write a table as CSV or Parquet, depending on its suffix."""
        with replacing(path) as temporary:
            if path.suffix == ".parquet":
                frame.to_parquet(temporary, index=False)
            else:
                frame.to_csv(temporary, index=False, lineterminator="\n")


def _read_record(path: Path) -> dict[str, Any] | None:
    """Return a record, or None if it is damaged or of another format."""
    content = _read_json(path)
    return content if content is not None and content.get("format") == RECORD_FORMAT else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
