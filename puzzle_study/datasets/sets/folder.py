"""Your own images in MVTec AD's layout."""

from __future__ import annotations

from puzzle_study.datasets.catalogue import DatasetInfo

INFO = DatasetInfo(
    name="folder",
    reader="puzzle_study.datasets.folders:find_categories",
    title="Your own images in MVTec AD's layout",
    size=128,
    channels=3,
    protocol="given",
    licence="yours",
    source="your own images",
    classes=None,
    by_hand="put normal images into train/good, and test images, if there are any, into test/good and "
    "test/<defect>, below the folder in data.root",
)
