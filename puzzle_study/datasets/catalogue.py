"""What is known of each set before its files are seen: sizes, classes, licence, source, downloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

DEFAULT_ROOT = "data"
Protocol = Literal["official", "protocol1", "given", "medical"]


@dataclass(frozen=True)
class Download:
    """One file to fetch; ``urls`` are tried in order."""

    file: str
    urls: tuple[str, ...]
    checksum: str | None
    """Like ``md5:...``; None where the authors publish none: then the content is checked after unpacking."""
    max_bytes: int
    """Beyond this a transfer is stopped: the server sends something else."""
    unpack: bool = False


@dataclass(frozen=True)
class DatasetInfo:
    """One image set."""

    name: str
    title: str
    size: int
    """Side of the square images, in pixels, where ``data.size`` is null (paper, section 4.1)."""
    channels: int
    protocol: Protocol
    """``official``: one class is normal, the official training and test images are used (protocol 2).
    ``protocol1``: a random object is normal, 80 % of its images train. ``given``: each category brings normal
    training images and a mixed test. ``medical``: ten normal images and all anomalous ones test."""
    licence: str
    source: str
    classes: tuple[str, ...] | None
    """Names that can be a task's normal class; None where the folder tells them."""
    first_number: int = 0
    """Number of the first class in ``normal_classes``."""
    expected: Mapping[str, int] = field(default_factory=dict)
    """Images of the whole set, by part or kind."""
    textures: tuple[str, ...] = ()
    """Categories that are textures, whose pieces look alike."""
    augment_to: int | None = None
    """Training images to which the paper augments."""
    downloads: tuple[Download, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)
    """MD5 of each original file as published, where known."""
    by_hand: str = ""
    """Where no download without an account exists: what to do, as the end of a sentence."""

    @property
    def in_a_folder(self) -> bool:
        """Whether its images are files that ``data.root`` leads to, and not part of a package."""
        return bool(self.downloads or self.by_hand)

    @property
    def files(self) -> str:
        """What a folder has to hold, as the object of a sentence."""
        return f"files of {self.title}" if self.classes else "images in MVTec AD's layout"


def _counts(**counts: int) -> Mapping[str, int]:
    return MappingProxyType(counts)


def _idx_downloads(bases: tuple[str, ...], checksums: Mapping[str, str]) -> tuple[Download, ...]:
    return tuple(
        Download(name, tuple(base + name for base in bases), f"md5:{md5}", max_bytes=64 << 20)
        for name, md5 in checksums.items()
    )


# fmt: off
_MNIST_MD5 = MappingProxyType({
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
})
_MNIST_UNZIPPED_MD5 = MappingProxyType({
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
})
_FASHION_MD5 = MappingProxyType({
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
})
_CIFAR10_MD5 = MappingProxyType({
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
})
# fmt: on
_ALL = (
    DatasetInfo(
        name="digits",
        title="Digits (UCI optical recognition, 8×8)",
        size=16,
        channels=1,
        protocol="official",
        licence="CC BY 4.0",
        source="comes with scikit-learn (UCI Machine Learning Repository, Alpaydin and Kaynak 1998)",
        classes=tuple("0123456789"),
        expected=_counts(train=1198, test=599),
    ),
    DatasetInfo(
        name="mnist",
        title="MNIST",
        size=28,
        channels=1,
        protocol="official",
        licence="CC BY-SA 3.0",
        source="http://yann.lecun.com/exdb/mnist/",
        classes=tuple("0123456789"),
        expected=_counts(train=60_000, test=10_000),
        downloads=_idx_downloads(
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
            _MNIST_MD5,
        ),
        checksums=MappingProxyType({**_MNIST_MD5, **_MNIST_UNZIPPED_MD5}),
    ),
    DatasetInfo(
        name="fashion_mnist",
        title="Fashion-MNIST",
        size=28,
        channels=1,
        protocol="official",
        licence="MIT",
        source="https://github.com/zalandoresearch/fashion-mnist",
        classes=(
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
        ),
        expected=_counts(train=60_000, test=10_000),
        downloads=_idx_downloads(
            ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
            _FASHION_MD5,
        ),
        checksums=_FASHION_MD5,
    ),
    DatasetInfo(
        name="cifar10",
        title="CIFAR-10",
        size=32,
        channels=3,
        protocol="official",
        licence="none stated by the authors (Krizhevsky 2009)",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        checksums=_CIFAR10_MD5,
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        expected=_counts(train=50_000, test=10_000),
        downloads=(
            Download(
                "cifar-10-python.tar.gz",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                "md5:c58f30108f718f92721af3b95e74349a",
                max_bytes=256 << 20,
                unpack=True,
            ),
        ),
    ),
    DatasetInfo(
        name="coil100",
        title="COIL-100",
        size=128,
        channels=3,
        protocol="protocol1",
        licence="for non-commercial research (Columbia University)",
        source="https://www.cs.columbia.edu/CAVE/software/softlib/coil-100.php",
        classes=tuple(f"obj{number}" for number in range(1, 101)),
        first_number=1,
        expected=_counts(all=7_200),
        downloads=(
            Download(
                "coil-100.zip",
                ("http://www.cs.columbia.edu/CAVE/databases/SLAM_coil-20_coil-100/coil-100/coil-100.zip",),
                None,
                max_bytes=512 << 20,
                unpack=True,
            ),
        ),
    ),
    DatasetInfo(
        name="mvtec",
        title="MVTec AD",
        size=128,
        channels=3,
        protocol="given",
        licence="CC BY-NC-SA 4.0",
        source="https://www.mvtec.com/company/research/datasets/mvtec-ad",
        classes=(
            "bottle",
            "cable",
            "capsule",
            "carpet",
            "grid",
            "hazelnut",
            "leather",
            "metal_nut",
            "pill",
            "screw",
            "tile",
            "toothbrush",
            "transistor",
            "wood",
            "zipper",
        ),
        expected=_counts(train=3_629, test=1_725),
        textures=("carpet", "grid", "leather", "tile", "wood"),
        augment_to=800,
        by_hand="download mvtec_anomaly_detection.tar.xz there (a form has to be filled in) and unpack it so that "
        "{folder}/bottle/train/good holds images",
    ),
    DatasetInfo(
        name="head_ct",
        title="Head CT (hemorrhage)",
        size=128,
        channels=1,
        protocol="medical",
        licence="see its Kaggle page",
        source="https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage",
        classes=("normal",),
        expected=_counts(normal=100, hemorrhage=100),
        by_hand="download the archive there (a Kaggle account is needed) and unpack it so that {folder} holds "
        "labels.csv and the folder head_ct with 200 PNG files",
    ),
    DatasetInfo(
        name="brain_mri",
        title="Brain MRI Images for Brain Tumor Detection",
        size=256,
        channels=1,
        protocol="medical",
        licence="see its Kaggle page",
        source="https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection",
        classes=("normal",),
        expected=_counts(normal=98, tumor=155),
        by_hand="download the archive there (a Kaggle account is needed) and unpack it so that {folder} holds the "
        "folders yes and no",
    ),
    DatasetInfo(
        name="folder",
        title="Your own images in MVTec AD's layout",
        size=128,
        channels=3,
        protocol="given",
        licence="yours",
        source="your own images",
        classes=None,
        by_hand="put normal images into train/good, and test images, if there are any, into test/good and "
        "test/<defect>, below the folder that data.root names",
    ),
)  # fmt: skip

DATASETS: dict[str, DatasetInfo] = {info.name: info for info in _ALL}
"""Every set by its name in study files."""
