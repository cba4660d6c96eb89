"""Fashion-MNIST."""

from __future__ import annotations

from puzzle_study.datasets.catalogue import DatasetInfo, idx_downloads

# fmt: off
_FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
# fmt: on
_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)  # fmt: skip
INFO = DatasetInfo(
    name="fashion_mnist",
    reader="puzzle_study.datasets.idx:find",
    title="Fashion-MNIST",
    size=28,
    channels=1,
    protocol="official",
    licence="MIT",
    source="https://github.com/zalandoresearch/fashion-mnist",
    classes=_CLASSES,
    expected={"train": 60_000, "test": 10_000},
    downloads=idx_downloads(("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",), _FASHION_MD5),
    checksums=_FASHION_MD5,
    below=("FashionMNIST/raw",),
    alike=("mnist",),
)
