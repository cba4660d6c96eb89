"""CIFAR-10."""

from __future__ import annotations

from puzzle_study.datasets.catalogue import DatasetInfo, Download

# fmt: off
_CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
# fmt: on
INFO = DatasetInfo(
    name="cifar10",
    reader="puzzle_study.datasets.cifar:find",
    title="CIFAR-10",
    size=32,
    channels=3,
    protocol="official",
    licence="none stated by the authors (Krizhevsky 2009)",
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    checksums=_CIFAR10_MD5,
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    expected={"train": 50_000, "test": 10_000},
    downloads=(
        Download(
            "cifar-10-python.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
            "md5:c58f30108f718f92721af3b95e74349a",
            max_bytes=256 << 20,
            unpack=True,
        ),
    ),
)
