"""Where results are kept: a folder that every node sees, or a store, here at a file:// URL."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from puzzle_study.errors import UserError
from puzzle_study.io import write_text
from puzzle_study.results import Results
from puzzle_study.study import storage
from puzzle_study.study.storage import Place, results_folder
from tests.cluster.store_suite import StoreSuite, leave_trial, stored


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A study whose results folder is the copy of a store."""
    return Place.of(Results(tmp_path / "results" / "tiny"), f"file://{tmp_path / 'store'}")


class TestFolder(StoreSuite):
    """A store in a folder."""

    def test_what_a_killed_worker_left_half_brought_is_removed_when_the_study_ends(self, place: Place) -> None:
        store = Path(place.store().url.removeprefix("file://")) / "tiny"
        for half in ("checkpoints/a/.epoch-000002.pt.e8444911.part", "errors/.a.npz.0123abcd.part"):
            write_text(store / half, "ha")
        with place.trial("a") as (results, _):
            leave_trial(results, "a")
        place.collect()
        place.publish(finished=True)
        assert [path.name for path in store.rglob("*.part")] == []
        assert stored(place) == ["detectors/a/weights.safetensors", "errors/a.npz", "records/a.json"]


@pytest.mark.parametrize(
    ("given", "setting", "folder"),
    [
        (None, None, "results"),
        (None, "/shared/x", "/shared/x"),
        (None, "s3://bucket/x", "results"),
        ("here", "/shared/x", "here"),
        ("here", None, "here"),
    ],
)
def test_the_command_line_comes_before_storage_and_storage_before_the_default(
    given: str | None, setting: str | None, folder: str
) -> None:
    assert results_folder(Path(given) if given else None, setting) == Path(folder)


@pytest.mark.parametrize("url", ["nothing://bucket/x", "file:///proc/nowhere", "s3://[x/y"])
def test_a_store_that_cannot_be_used_is_one_sentence(url: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"^storage {re.escape(url)} cannot be used from .*; check the address and the cred"
    ):
        Place.of(Results(tmp_path / "tiny"), url).fetch()


def test_a_node_that_does_not_see_the_folder_loses_nothing_silently(tmp_path: Path) -> None:
    place = Place.of(Results(tmp_path / "tiny"), None)
    with pytest.raises(UserError, match=r"tiny is not the same folder on .*; set `storage` to a folder"):
        place.trial("a").__enter__()
    assert not (tmp_path / "tiny").exists()


def test_a_node_with_another_version_runs_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "__version__", "9.9.9")
    for context in (place.trial("a"), place.unit()):
        with pytest.raises(UserError, match=r"has puzzle_study 9\.9\.9, the study runs .*; install that version"):
            context.__enter__()


@pytest.mark.parametrize("url", ["s3://?region=us-east-1", "gs://"])
def test_a_store_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"^storage (s3|gs)://.* has no bucket; write (s3|gs)://BUCKET/FOLDER$"):
        storage.Store(url, "tiny")


def test_a_password_in_the_address_is_refused_and_not_said() -> None:
    with pytest.raises(UserError, match=r"^storage s3://…@bucket/x contains a password") as caught:
        storage.Store("s3://key:geheim@bucket/x?region=us-east-1", "tiny")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "When initiating multiple part upload for key 'a: b' in bucket 'x': AWS Error NO_SUCH_BUCKET during "
            "CreateMultipartUpload operation: The specified bucket does not exist (Request ID: Jxk5)",
            "(AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation: The specified bucket does not exist);",
        ),
        (
            "google::cloud::Status(UNAVAILABLE: Could not connect error_info={reason=, metadata={x=y}})",
            "(UNAVAILABLE: Could not connect);",
        ),
        ("", "(OSError);"),
    ],
)
def test_what_a_store_says_is_cut_to_its_cause(place: Place, said: str, shown: str) -> None:
    with pytest.raises(UserError) as caught, place.store().explained():
        raise OSError(said)
    assert shown in str(caught.value)
    assert str(caught.value).endswith("continue with --resume")


def test_a_full_disk_is_not_taken_for_a_store_that_is_not_reached() -> None:
    store = storage.Store("s3://bucket/x?region=us-east-1", "tiny")
    with pytest.raises(OSError, match="No space left"), store.explained():
        raise OSError(errno.ENOSPC, "No space left on device")
