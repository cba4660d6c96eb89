"""Brain MRI Images for Brain Tumor Detection."""

from __future__ import annotations

from puzzle_study.datasets.catalogue import DatasetInfo

INFO = DatasetInfo(
    name="brain_mri",
    reader="puzzle_study.datasets.folders:find_brain_mri",
    title="Brain MRI Images for Brain Tumor Detection",
    size=256,
    channels=1,
    protocol="medical",
    licence="see its Kaggle page",
    source="https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection",
    classes=("normal",),
    expected={"normal": 98, "tumor": 155},
    by_hand="download the archive there (a Kaggle account is needed) and unpack it so that {folder} holds the "
    "folders yes and no",
)
