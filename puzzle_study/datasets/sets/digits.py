"""Digits (UCI optical recognition, 8×8)."""

from __future__ import annotations

from puzzle_study.datasets.catalogue import DatasetInfo

INFO = DatasetInfo(
    name="digits",
    reader="puzzle_study.datasets.digits:find",
    title="Digits (UCI optical recognition, 8×8)",
    size=16,
    channels=1,
    protocol="official",
    licence="CC BY 4.0",
    source="comes with scikit-learn (UCI Machine Learning Repository, Alpaydin and Kaynak 1998)",
    classes=tuple("0123456789"),
    expected={"train": 1198, "test": 599},
)
