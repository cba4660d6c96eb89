"""Head CT (hemorrhage)."""

from __future__ import annotations

from puzzle_study.datasets.catalogue import DatasetInfo

INFO = DatasetInfo(
    name="head_ct",
    reader="puzzle_study.datasets.folders:find_head_ct",
    title="Head CT (hemorrhage)",
    size=128,
    channels=1,
    protocol="medical",
    licence="see its Kaggle page",
    source="https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage",
    classes=("normal",),
    expected={"normal": 100, "hemorrhage": 100},
    by_hand="download the archive there (a Kaggle account is needed) and unpack it so that {folder} holds "
    "labels.csv and the folder head_ct with 200 PNG files",
)
