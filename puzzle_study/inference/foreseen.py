"""What a study has measured of a change like the one that images show (corruptions.csv)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from puzzle_study.detectors.base import Detector
from puzzle_study.inference.drift import Change

CLEAN = "none"
MIDDLE = 3
Row = Mapping[str, str]


def foreseen(changes: Sequence[Change], table: Path, trial: str, detector: Detector) -> str:
    """Return what the corruptions most like the changes did to a detector, as a sentence; empty if nothing is known.

    Args:
        changes: of brightness, contrast and sharpness; others are not looked up.
        table: corruptions.csv of the detector's study; need not be there.
        trial: key of the detector's trial.
        detector: with the reading that it is used with.
    """
    reading = detector.reading
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [
                row
                for row in csv.DictReader(file)
                if (row["trial"], row["aggregation"], row["error"]) == (trial, reading.aggregation, reading.error)
            ]
        clean = [row for row in rows if row["corruption"] == CLEAN]
        found = {(row["corruption"], row["severity"]): row for kind in _kinds(changes, rows) for row in kind}
        if not clean or not found:
            return ""
        return (
            f"the study has measured {'; '.join(map(_said, found.values()))}; and without a change {_rates(clean[0])}"
        )
    except (OSError, KeyError, ValueError):
        return ""  # a table that is not there or damaged takes nothing from the warning


def _kinds(changes: Sequence[Change], rows: Sequence[Row]) -> list[list[Row]]:
    """Return for each change the row of the corruption that is most like it, as strong as it if that can be told."""
    by_name = {change.what: change for change in changes}
    found = []
    if (brightness := by_name.get("brightness")) is not None:
        ratio, difference = brightness.now / max(brightness.before, 1e-6), brightness.now - brightness.before
        contrast = by_name.get("contrast")
        if ratio < 1 and contrast is not None and contrast.now < contrast.before:
            found.append(_nearest(rows, "dim_lamp", ratio))
        else:
            found.append(_nearest(rows, "brighter" if difference > 0 else "darker", abs(difference)))
    elif (contrast := by_name.get("contrast")) is not None and contrast.now < contrast.before:
        found.append(_nearest(rows, "contrast", contrast.now / contrast.before))
    if (sharpness := by_name.get("sharpness")) is not None:
        kind = "defocus_blur" if sharpness.now < sharpness.before else "gaussian_noise"
        found.append([row for row in rows if row["corruption"] == kind and int(row["severity"]) == MIDDLE])
    return found


def _nearest(rows: Sequence[Row], kind: str, value: float) -> list[Row]:
    """Return the row of a corruption whose strength is nearest, if there is one."""
    return sorted((row for row in rows if row["corruption"] == kind), key=lambda row: abs(float(row["value"]) - value))[
        :1
    ]


def _said(row: Row) -> str:
    return f"{row['corruption']} {float(row['value']):.3g} (severity {row['severity']}): {_rates(row)}"


def _rates(row: Row) -> str:
    """Say the AUROC and what was flagged, as far as the test images had both sides."""
    sides = {"normal": row["flagged_normal"], "anomalous": row["flagged_anomalous"]}
    flagged = " and ".join(f"{100 * float(share):.0f} % of {side}" for side, share in sides.items() if share)
    auroc = f"AUROC {100 * float(row['auroc']):.1f}, " if row["auroc"] else ""
    return f"{auroc}{flagged or '? %'} images flagged"
