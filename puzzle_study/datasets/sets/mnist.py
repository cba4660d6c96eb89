"""MNIST."""

from __future__ import annotations

from puzzle_study.datasets.catalogue import DatasetInfo, idx_downloads

# fmt: off
_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_MNIST_UNZIPPED_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# fmt: on
INFO = DatasetInfo(
    name="mnist",
    reader="puzzle_study.datasets.idx:find",
    title="MNIST",
    size=28,
    channels=1,
    protocol="official",
    licence="CC BY-SA 3.0",
    source="http://yann.lecun.com/exdb/mnist/",
    classes=tuple("0123456789"),
    expected={"train": 60_000, "test": 10_000},
    downloads=idx_downloads(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        _MNIST_MD5,
    ),
    checksums=_MNIST_MD5 | _MNIST_UNZIPPED_MD5,
    below=("MNIST/raw",),
    alike=("fashion_mnist",),
)
