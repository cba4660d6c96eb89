"""MVTec AD."""

from __future__ import annotations

from puzzle_study.datasets.catalogue import DatasetInfo

_CATEGORIES = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip
INFO = DatasetInfo(
    name="mvtec",
    reader="puzzle_study.datasets.folders:find_categories",
    title="MVTec AD",
    size=128,
    channels=3,
    protocol="given",
    licence="CC BY-NC-SA 4.0",
    source="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    classes=_CATEGORIES,
    expected={"train": 3_629, "test": 1_725},
    textures=("carpet", "grid", "leather", "tile", "wood"),
    augment_to=800,
    by_hand="download mvtec_anomaly_detection.tar.xz there (a form has to be filled in) and unpack it so that "
    "{folder}/bottle/train/good holds images",
)
