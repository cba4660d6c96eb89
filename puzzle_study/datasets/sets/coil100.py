"""COIL-100."""

from __future__ import annotations

from puzzle_study.datasets.catalogue import DatasetInfo, Download

INFO = DatasetInfo(
    name="coil100",
    reader="puzzle_study.datasets.folders:find_coil",
    title="COIL-100",
    size=128,
    channels=3,
    protocol="protocol1",
    licence="for non-commercial research (Columbia University)",
    source="https://www.cs.columbia.edu/CAVE/software/softlib/coil-100.php",
    classes=tuple(f"obj{number}" for number in range(1, 101)),
    first_number=1,
    expected={"all": 7_200},
    downloads=(
        Download(
            "coil-100.zip",
            ("http://www.cs.columbia.edu/CAVE/databases/SLAM_coil-20_coil-100/coil-100/coil-100.zip",),
            None,
            max_bytes=512 << 20,
            unpack=True,
        ),
    ),
)
