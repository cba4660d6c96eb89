"""CIFAR-10 in both layouts, and pickles that want to do more than hold data."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def by_hand(*parts: bytes) -> bytes:
    return b"".join((*parts, b"."))


ATTACKS = {
    "os.system": by_hand(b"cos\nsystem\n(S'true'\ntR"),
    "builtins by stack": by_hand(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R"),
    "numpy's own functions": by_hand(b"cnumpy\nload\n(S'/etc/passwd'\ntR"),
    "attribute of an allowed module": by_hand(b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.data\x93"),
    "instance": by_hand(b"(ios\nsystem\n"),
    "extension registry": by_hand(b"\x80\x02\x82\x01"),
    "persistent": by_hand(b"Pid\n"),
    "object with a class": by_hand(b"\x80\x02cos\nsystem\n)\x81"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_pickles_that_want_more_are_refused(tmp_path: Path, attack: str) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(ATTACKS[attack])
    with pytest.raises(UserError, match=r"data_batch_1 was not read: it is a pickle with (the name|the instruction)"):
        cifar.read_python_batch(path)


def test_nothing_is_executed(tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": Evil(witness), "labels": []}))
    pickle.loads(path.read_bytes())
    assert witness.exists(), "the attack works on the ordinary unpickler"
    witness.unlink()
    with pytest.raises(UserError, match="it is a pickle with the name"):
        cifar.read_python_batch(path)
    assert not witness.exists()


def test_an_absurd_memo_number_reserves_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(by_hand(b"\x80\x02}r" + struct.pack("<I", 2**31)))
    tracemalloc.start()
    try:
        assert plain_pickle.read_pickle(path, 1000) == {}
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


TRAPS = {
    "a deep key": (by_hand(b"\x80\x02}K\x01", b"\x85" * 1_000_000, b"Ns"), "a key that is neither text nor bytes"),
    "a key too deep for its own name": (by_hand(b"\x80\x02}K\x01", b"\x85" * 3000, b"Ns"), "a key that is neither"),
    "a key that doubles": (by_hand(b"\x80\x02}K\x01", b"q\x00h\x00\x86" * 60, b"Ns"), "a key that is neither"),
    "a key that doubles by DUP": (by_hand(b"\x80\x02}K\x01", b"2\x86" * 60, b"Ns"), "the instruction DUP"),
    "such a key among many": (by_hand(b"\x80\x02}(K\x01", b"q\x00h\x00\x86" * 60, b"Nu"), "a key that is neither"),
    "such a key in a new dictionary": (by_hand(b"\x80\x02(K\x01", b"q\x00h\x00\x86" * 60, b"Nd"), "a key that is"),
    "a number as a key": (by_hand(b"\x80\x02}K\x01Ns"), "a key that is neither text nor bytes"),
    "a name that doubles": (by_hand(b"\x80\x04K\x01", b"q\x00h\x00\x86" * 60, b"N\x93"), "STACK_GLOBAL requires str"),
    "many empty lists": (by_hand(b"\x80\x02", b"]" * 1_100_000), "more than 1,048,576 instructions"),
    "text encoded again and again": (
        by_hand(
            b"\x80\x02X" + struct.pack("<I", 1000) + bytes(1000) + b"\x85q\x00c_codecs\nencode\nq\x01",
            b"h\x01h\x00R" * 1000,
        ),
        "text that is used again and again",
    ),
    "a call with many arguments": (by_hand(b"\x80\x02cnumpy\ndtype\n(", b"K\x01" * 4, b"tR"), "unusual arguments"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_pickles_that_would_crash_or_hang_are_refused(tmp_path: Path, trap: str) -> None:
    content, reason = TRAPS[trap]
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    # In a process of its own, which may crash or be stopped without harm to the others.
    code = (
        "import sys\nfrom pathlib import Path\nfrom puzzle_study.datasets import cifar\n"
        "from puzzle_study.errors import UserError\n"
        "try: cifar.read_python_batch(Path(sys.argv[1]))\nexcept UserError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{path} ")
    assert reason in result.stdout


def test_a_list_that_holds_itself_is_no_batch(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(by_hand(b"\x80\x02]q\x00h\x00a"))
    with pytest.raises(UserError, match="has no `data` array"):
        cifar.read_python_batch(path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_plain_data_is_read_as_the_ordinary_unpickler_reads_it(tmp_path: Path, protocol: int) -> None:
    words = ["", "a", "Zoë", "\n"]
    data: dict[str | bytes, Any] = {
        "words": words,
        "again": words,
        b"raw": b"\x00\xff",
        "sizes": (),
        "more": [(1,), (1, 2), (1, 2, 3, -4)],
    }
    data |= {"constants": [None, True, False, 255, 65_535, 2**40, -(2**70)], "nested": {"a": [[], {}], "b": {}}}
    data |= {str(number): number for number in range(2000)}
    path = tmp_path / "plain"
    path.write_bytes(pickle.dumps(data, protocol))
    assert plain_pickle.read_pickle(path, 1 << 20) == data


def test_text_of_python_2_is_bytes(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_bytes(by_hand(b"\x80\x02}(U\x01aT\x02\x00\x00\x00b\xffS'c'\n(lp0\nI1\naI01\nau"))
    assert plain_pickle.read_pickle(path, 100) == {b"a": b"b\xff", b"c": [1, True]}


@pytest.mark.parametrize("dtype", ["object", "float32", "U3"])
def test_arrays_of_something_else_than_bytes(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), dtype=dtype), "labels": [0, 1]}, 2))
    with pytest.raises(UserError, match="something else than bytes"):
        cifar.read_python_batch(path)


BATCHES = {
    "no dictionary": ([1, 2], "has no `data` array"),
    "CIFAR-100": ({"data": pixels(0, 2, 3072), "fine_labels": [0, 1]}, "has no `data` array with a list of `labels`"),
    "another shape": ({"data": pixels(0, 2, 100), "labels": [0, 1]}, r"data of shape \(2, 100\)"),
    "too few labels": ({"data": pixels(0, 2, 3072), "labels": [0]}, "has 1 labels for 2 images"),
    "labels of another kind": ({"data": pixels(0, 2, 3072), "labels": [0, "x"]}, "no class numbers"),
}


@pytest.mark.parametrize("batch", BATCHES)
def test_pickles_that_are_no_batch(tmp_path: Path, batch: str) -> None:
    content, sentence = BATCHES[batch]
    (tmp_path / "batch").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(UserError, match=sentence):
        cifar.read_python_batch(tmp_path / "batch")


@pytest.mark.parametrize("keep", [0, 1, 100, 20_000])
def test_truncated_pickles(layouts: Layouts, keep: int) -> None:
    path = layouts.cifar_python() / "data_batch_2"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="data_batch_2 is damaged or truncated"):
        cifar.read_python_batch(path)


def test_too_long_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(bytes(101))
    with pytest.raises(UserError, match="more than 100 bytes"):
        plain_pickle.read_pickle(tmp_path / "batch", 100)


def test_truncated_binary_batch(layouts: Layouts) -> None:
    path = layouts.cifar_binary() / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"test_batch\.bin has 61,459 bytes, no multiple of 3,073"):
        decoded(path.parent)


def test_a_label_beyond_nine(layouts: Layouts) -> None:
    path = layouts.cifar_binary() / "data_batch_1.bin"
    path.write_bytes(b"\x0b" + path.read_bytes()[1:])
    with pytest.raises(UserError, match=r"data_batch_1\.bin holds the label 11; CIFAR-10 has 0 to 9"):
        decoded(path.parent)


def test_missing_batch(layouts: Layouts) -> None:
    folder = layouts.cifar_python()
    (folder / "data_batch_4").unlink()
    with pytest.raises(UserError, match="data_batch_4 is missing; fetch the set again"):
        cifar.find(folder.parent, DATASETS["cifar10"])


def test_gray_is_luma(layouts: Layouts) -> None:
    from PIL import Image

    folder = layouts.cifar_python()
    colour, gray = decoded(folder), decoded(folder, channels=1)
    first = Image.fromarray(colour.images_NCHW[0].transpose(1, 2, 0)).convert("L")
    assert np.array_equal(gray.images_NCHW[0, 0], np.asarray(first))
