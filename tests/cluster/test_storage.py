"""Where results are kept: a folder that every node sees, or a store, here at a file:// URL."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from puzzle_study.errors import UserError
from puzzle_study.results import RECORD_FORMAT, Results, write_json, write_text
from puzzle_study.study import storage
from puzzle_study.study.storage import Place, Store, results_folder


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A study whose results folder is the copy of a store."""
    return Place.of(Results(tmp_path / "results" / "tiny"), f"file://{tmp_path / 'store'}")


def leave_trial(results: Results, key: str) -> None:
    write_text(results.errors_file(key), "errors")
    write_text(results.detector(key) / "weights.pt", "weights")
    write_json(results.record_file(key), {"format": RECORD_FORMAT, "status": "finished"})


def stored(place: Place) -> list[str]:
    return sorted(place.store().files())


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


def test_a_worker_brings_what_a_trial_leaves_and_the_record_last(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    brought: list[str] = []
    put = Store.put

    def watched(self: Store, name: str, root: Path) -> None:
        brought.append(name)
        put(self, name, root)

    monkeypatch.setattr(Store, "put", watched)
    with place.trial("a") as (results, saved):
        scratch = results.root
        write_text(results.checkpoints("a") / "epoch-000001.pt", "1")
        saved()
        leave_trial(results, "a")
    assert brought == ["checkpoints/a/epoch-000001.pt", "errors/a.npz", "detectors/a/weights.pt", "records/a.json"]
    assert stored(place) == sorted(brought[1:])
    assert not scratch.exists()


def test_a_trial_goes_on_elsewhere_from_the_checkpoints_in_the_store(place: Place) -> None:
    def interrupted() -> None:
        with place.trial("a") as (results, saved):
            for epoch in range(1, 5):
                folder = results.checkpoints("a")
                write_text(folder / f"epoch-{epoch:06d}.pt", str(epoch))
                for old in sorted(folder.glob("epoch-*"))[:-2]:
                    old.unlink()
                saved()
            write_text(results.log_file("a"), "lost the connection\n")
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        interrupted()
    assert stored(place) == ["checkpoints/a/epoch-000003.pt", "checkpoints/a/epoch-000004.pt", "logs/a.log"]
    with place.trial("a") as (results, _):
        assert results.log_file("a").read_text(encoding="utf-8") == "lost the connection\n"
        assert (results.checkpoints("a") / "epoch-000004.pt").read_text(encoding="utf-8") == "4"
        leave_trial(results, "a")
    assert not any(name.startswith("checkpoints") for name in stored(place))


def test_an_epoch_waits_at_its_end_for_the_checkpoint_of_the_one_before(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = threading.Event()
    put = Store.put

    def slow(self: Store, name: str, root: Path) -> None:
        arrived.wait(30)
        put(self, name, root)

    monkeypatch.setattr(Store, "put", slow)
    with place.trial("a") as (results, saved):
        write_text(results.checkpoints("a") / "epoch-000001.pt", "1")
        saved()  # returns, although nothing has arrived: the next epoch is trained meanwhile
        assert stored(place) == []
        write_text(results.checkpoints("a") / "epoch-000002.pt", "2")
        threading.Timer(0.2, arrived.set).start()
        saved()
        assert "checkpoints/a/epoch-000001.pt" in stored(place)


def test_the_driver_fetches_a_record_when_its_trial_ended_and_the_rest_after_the_stage(place: Place) -> None:
    results = Results(Path(place.root))
    arriving = place.arriving(results)
    assert arriving.record("a") is None
    with place.trial("a") as (there, _):
        leave_trial(there, "a")
    record = arriving.record("a")
    assert record is not None
    assert record["status"] == "finished"
    assert not results.errors_file("a").exists()
    place.collect()
    assert results.errors_file("a").read_text(encoding="utf-8") == "errors"
    assert (results.detector("a") / "weights.pt").exists()


def test_a_record_that_the_driver_wrote_itself_is_brought_with_the_next_one(place: Place) -> None:
    results = Results(Path(place.root))
    arriving = place.arriving(results)
    write_json(results.record_file("stopped"), {"format": RECORD_FORMAT, "status": "stopped"})
    arriving.record("a")
    assert stored(place) == ["records/stopped.json"]


def test_a_unit_of_the_attack_stage_fetches_detectors_and_brings_its_record_last(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.trial("a") as (results, _):
        leave_trial(results, "a")
    brought: list[str] = []
    put = Store.put

    def watched(self: Store, name: str, root: Path) -> None:
        brought.append(name)
        put(self, name, root)

    monkeypatch.setattr(Store, "put", watched)
    with place.unit() as results:
        assert (results.detector("a") / "weights.pt").read_text(encoding="utf-8") == "weights"
        write_json(results.attack_file("u"), {"format": RECORD_FORMAT, "rows": []})
        write_text(results.attack_file("u").with_suffix(".npz"), "images")
    assert brought == ["attacks/u.npz", "attacks/u.json"]


def test_another_machine_goes_on_with_what_the_store_holds(place: Place, tmp_path: Path) -> None:
    results = Results(Path(place.root))
    write_text(results.study_file, "name: tiny\n")
    write_text(results.environment_file, "{}")
    write_text(results.root / "trials.csv", "trial\n")
    write_text(results.best / "3" / "weights.pt", "weights")
    write_text(results.ray / "log", "not kept")
    leave_trial(results, "a")
    place.publish(finished=False)
    early = {"study.yaml", "environment.json", "records/a.json", "errors/a.npz", "detectors/a/weights.pt"}
    assert set(stored(place)) == early
    place.publish(finished=True)
    assert set(stored(place)) == early | {"trials.csv", "best/3/weights.pt"}
    write_text(results.best / "8" / "weights.pt", "weights")
    (results.best / "3" / "weights.pt").unlink()
    place.publish(finished=True)
    assert "best/3/weights.pt" not in stored(place)
    other = Place.of(Results(tmp_path / "other" / "tiny"), place.url)
    other.fetch()
    root = Path(other.root)
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == stored(place)


def test_a_folder_that_holds_another_study_than_the_store_is_refused_and_left_alone(
    place: Place, tmp_path: Path
) -> None:
    write_text(Results(Path(place.root)).study_file, "name: tiny\n")
    place.publish(finished=False)
    other = Results(tmp_path / "other" / "tiny")
    write_text(other.study_file, "name: tiny\nseeds: [1]\n")
    with pytest.raises(UserError, match=r"other/tiny holds another study than file://.*/store/tiny, which is the one"):
        Place.of(other, place.url).fetch()
    assert other.study_file.read_text(encoding="utf-8") == "name: tiny\nseeds: [1]\n"


@pytest.mark.parametrize("url", ["nothing://bucket/x", "file:///proc/nowhere"])
def test_a_store_that_cannot_be_used_is_one_sentence(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^storage {url} cannot be used from .*; check the address and the cred"):
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
