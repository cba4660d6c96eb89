"""CIFAR-10 in both layouts, and pickles that want to do more than hold data."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from puzzle_study.datasets import DATASETS, cifar, plain_pickle
from puzzle_study.datasets.records import Decoded, Sizing
from puzzle_study.errors import UserError

from .conftest import Layouts, pixels


def decoded(folder: Path, channels: int = 3) -> Decoded:
    units = cifar.find(folder, DATASETS["cifar10"])
    assert units is not None
    return units[""].decode(Sizing(size=32, channels=channels), {})


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_python_batches_of_any_protocol(layouts: Layouts, protocol: int) -> None:
    found = decoded(layouts.cifar_python(protocol).parent)
    assert found.images_NCHW.shape == (120, 3, 32, 32)
    assert np.array_equal(found.images_NCHW[20:40].reshape(20, -1), pixels(1, 20, 3072))
    assert found.classes[:4] == ("airplane", "automobile", "bird", "cat")
    assert (found.names[0], found.names[-1]) == ("data_batch_1/00000", "test_batch/00019")
    assert found.parts.count("test") == 20


def test_both_layouts_give_the_same(layouts: Layouts, tmp_path: Path) -> None:
    python = decoded(layouts.cifar_python())
    binary = decoded(Layouts(tmp_path / "other").cifar_binary())
    assert np.array_equal(python.images_NCHW, binary.images_NCHW)
    assert (python.names, python.classes, python.parts) == (binary.names, binary.classes, binary.parts)


def test_the_real_batches_agree_with_the_ordinary_unpickler(real_cifar: Path) -> None:
    path = real_cifar / "data_batch_3"
    pixels_NP, label_N = cifar.read_python_batch(path)
    # A file of our own making, so it may be executed.
    truth = pickle.loads(path.read_bytes(), encoding="bytes")
    assert np.array_equal(pixels_NP, truth[b"data"])
    assert label_N.tolist() == truth[b"labels"]
    assert {"horse", "ship"} < set(decoded(real_cifar).classes)


def test_fortran_order_is_understood(tmp_path: Path) -> None:
    data = np.asfortranarray(pixels(0, 4, 3072))
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": data, "labels": [0, 1, 2, 3]}, 2))
    assert np.array_equal(cifar.read_python_batch(tmp_path / "batch")[0], data)


def by_hand(*parts: bytes) -> bytes:
    return b"".join((*parts, b"."))


def dumped(content: object) -> bytes:
    return pickle.dumps(content, 2)


def array(dtype: str) -> bytes:
    return dumped({"data": np.zeros((2, 3072), dtype=dtype), "labels": [0, 1]})


DOUBLING = b"q\x00h\x00\x86" * 60
REFUSED: dict[str, tuple[bytes, str]] = {
    # what would be executed
    "os.system": (by_hand(b"cos\nsystem\n(S'true'\ntR"), "the name os.system"),
    "builtins by stack": (by_hand(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R"), "the name builtins.eval"),
    "numpy's own functions": (by_hand(b"cnumpy\nload\n(S'/etc/passwd'\ntR"), "the name numpy.load"),
    "attribute of an allowed name": (by_hand(b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.data\x93"), "the name numpy.nda"),
    "instance": (by_hand(b"(ios\nsystem\n"), "the instruction INST"),
    "extension registry": (by_hand(b"\x80\x02\x82\x01"), "the instruction EXT1"),
    "persistent": (by_hand(b"Pid\n"), "the instruction PERSID"),
    "object with a class": (by_hand(b"\x80\x02cos\nsystem\n)\x81"), "the instruction NEWOBJ"),
    "a state for a stand-in": (by_hand(b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb"), "is damaged"),
    "a state for bytes": (by_hand(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00a\x85RNb"), "bytes with a state"),
    # what would crash or hang
    "an absurd memo number": (by_hand(b"\x80\x02}r" + struct.pack("<I", 2**31)), "a number of 32 bits"),
    "a deep key": (by_hand(b"\x80\x02}K\x01", b"\x85" * 1_000_000, b"Ns"), "more than 16 tuples"),
    "a key that doubles": (by_hand(b"\x80\x02}K\x01", DOUBLING, b"Ns"), "more than 16 tuples"),
    "a key that doubles by DUP": (by_hand(b"\x80\x02}K\x01", b"2\x86" * 60, b"Ns"), "the instruction DUP"),
    "such a key among many": (by_hand(b"\x80\x02}(K\x01", DOUBLING, b"Nu"), "more than 16 tuples"),
    "a name that doubles": (by_hand(b"\x80\x04K\x01", DOUBLING, b"N\x93"), "more than 16 tuples"),
    "keys with the same hash": (
        by_hand(b"\x80\x02}(", *(b"I%d\nN" % (times * (2**61 - 1)) for times in range(10)), b"u"), "number of 65 bits",
    ),
    "many empty lists": (by_hand(b"\x80\x02", b"]" * 1_100_000), "more than 1,048,576 instructions"),
    "text encoded again and again": (
        by_hand(b"\x80\x02X\x04\x00\x00\x00text\x85q\x00c_codecs\nencode\nq\x01", b"h\x01h\x00R" * 17), "than 16 calls",
    ),
    # what is no batch
    "a list that holds itself": (by_hand(b"\x80\x02]q\x00h\x00a"), "has no `data` array"),
    "a call with many arguments": (by_hand(b"\x80\x02cnumpy\ndtype\n(", b"K\x01" * 4, b"tR"), "has no `data` array"),
    "a number as a key": (by_hand(b"\x80\x02}K\x01Ns"), "has no `data` array"),
    "an array of objects": (array("object"), "something other than bytes"),
    "an array of numbers": (array("float32"), "something other than bytes"),
    "an array of text": (array("U3"), "something other than bytes"),
    "no dictionary": (dumped([1, 2]), "has no `data` array"),
    "CIFAR-100": (dumped({"data": pixels(0, 2, 3072), "fine_labels": [0, 1]}), "has no `data` array with a list of"),
    "another shape": (dumped({"data": pixels(0, 2, 100), "labels": [0, 1]}), "data of shape (2, 100)"),
    "too few labels": (dumped({"data": pixels(0, 2, 3072), "labels": [0]}), "has 1 labels for 2 images"),
    "labels of another kind": (dumped({"data": pixels(0, 2, 3072), "labels": [0, "x"]}), "other than class numbers"),
    **{f"{keep} bytes": (array("uint8")[:keep], "is damaged or truncated") for keep in (0, 1, 100, 6000)},
}  # fmt: skip
READ_ALL = """
import sys
from pathlib import Path
from puzzle_study.datasets import cifar
from puzzle_study.errors import UserError
for path in map(Path, sys.argv[1:]):
    try: cifar.read_python_batch(path)
    except UserError as error: print(error, flush=True)
"""


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said about each pickle, by a process of its own, which could crash or hang."""
    paths = {name: tmp_path_factory.mktemp("refused") / "data_batch_1" for name in REFUSED}
    for name, path in paths.items():
        path.write_bytes(REFUSED[name][0])
    arguments = [sys.executable, "-c", READ_ALL, *map(str, paths.values())]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert result.stderr == ""
    by_path = {line.partition(" ")[0]: line for line in result.stdout.splitlines()}
    return {name: by_path.get(str(path), "nothing") for name, path in paths.items()}


@pytest.mark.parametrize("case", REFUSED)
def test_pickles_of_anything_but_a_batch_are_refused(case: str, sentences: dict[str, str]) -> None:
    assert REFUSED[case][1] in sentences[case]


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_nothing_is_executed(tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": Evil(witness), "labels": []}))
    pickle.loads(path.read_bytes())
    assert witness.exists(), "the attack works on the ordinary unpickler"
    witness.unlink()
    with pytest.raises(UserError, match="it is a pickle with the name"):
        cifar.read_python_batch(path)
    assert not witness.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_plain_data_is_read_as_the_ordinary_unpickler_reads_it(tmp_path: Path, protocol: int) -> None:
    words = ["", "a", "Zoë", "\n"]
    data: dict[str | bytes, Any] = {
        "words": words,
        "again": words,
        b"raw": b"\x00\xff",
        "sizes": (),
        "more": [(1,), (1, 2), (1, 2, 3, -4)],
        "constants": [None, True, False, 255, 65_535, 2**40, 1 - 2**64],
        "nested": {"a": [[], {}], "b": {}},
    }
    data |= {str(number): number for number in range(2000)}
    path = tmp_path / "plain"
    path.write_bytes(pickle.dumps(data, protocol))
    assert plain_pickle.read_pickle(path, 1 << 20) == data


def test_text_of_python_2_is_bytes(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_bytes(by_hand(b"\x80\x02}(U\x01aT\x02\x00\x00\x00b\xffS'c'\n(lp0\nI1\naI01\nau"))
    assert plain_pickle.read_pickle(path, 100) == {b"a": b"b\xff", b"c": [1, True]}


def test_too_long_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(bytes(101))
    with pytest.raises(UserError, match="more than 100 bytes"):
        plain_pickle.read_pickle(tmp_path / "batch", 100)


@pytest.mark.parametrize(
    ("batch", "change", "sentence"),
    [
        ("test_batch", lambda content: content[:-1], r"test_batch\.bin has 61,459 bytes.* multiple of 3,073"),
        ("data_batch_1", lambda content: b"\x0b" + content[1:], r"data_batch_1\.bin holds the label 11"),
    ],
)
def test_damaged_binary_batches(layouts: Layouts, batch: str, change: Callable[[bytes], bytes], sentence: str) -> None:
    path = layouts.cifar_binary() / f"{batch}.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=sentence):
        decoded(path.parent)


def test_missing_batch(layouts: Layouts) -> None:
    folder = layouts.cifar_python()
    (folder / "data_batch_4").unlink()
    with pytest.raises(UserError, match="data_batch_4 is missing; fetch the set again"):
        cifar.find(folder.parent, DATASETS["cifar10"])


def test_gray_is_luma(layouts: Layouts) -> None:
    folder = layouts.cifar_python()
    colour, gray = decoded(folder), decoded(folder, channels=1)
    first = Image.fromarray(colour.images_NCHW[0].transpose(1, 2, 0)).convert("L")
    assert np.array_equal(gray.images_NCHW[0, 0], np.asarray(first))
