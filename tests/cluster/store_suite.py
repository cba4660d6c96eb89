"""What holds of every store; a class that inherits it gives the fixture `place`."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from puzzle_study.errors import UserError
from puzzle_study.io import write_json, write_text
from puzzle_study.results import RECORD_FORMAT, Results
from puzzle_study.study.storage import Place, Store


def leave_trial(results: Results, key: str) -> None:
    """Write what a trial leaves."""
    write_text(results.errors_file(key), "errors")
    write_text(results.detector(key) / "weights.safetensors", "weights")
    write_json(results.record_file(key), {"format": RECORD_FORMAT, "status": "finished"})


def stored(place: Place) -> list[str]:
    """Return the names of what the store holds."""
    return sorted(place.store().files())


class StoreSuite:
    """Tests that are run for each kind of store."""

    @pytest.fixture
    def brought(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The names of what is brought to a store, in that order."""
        names: list[str] = []
        put = Store.put

        def watched(store: Store, name: str, root: Path) -> None:
            names.append(name)
            put(store, name, root)

        monkeypatch.setattr(Store, "put", watched)
        return names

    def test_a_file_comes_back_as_it_was_and_an_empty_one_is_there(self, place: Place, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        for name, content in (("x/empty", b""), ("x/some", bytes(range(256)) * 40_000)):
            (tmp_path / name).write_bytes(content)
            place.store().put(name, tmp_path)
            place.store().get(name, tmp_path / "back")
            assert (tmp_path / "back" / name).read_bytes() == content
        assert place.store().files("x") == {"x/empty": 0, "x/some": 10_240_000}

    def test_what_is_interrupted_on_its_way_is_not_there(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Interrupted:
            def __init__(self, name: str) -> None: ...

            def __enter__(self) -> Interrupted:
                return self

            def __exit__(self, *error: object) -> None: ...

            def read_buffer(self) -> bytes:
                raise KeyboardInterrupt

        (tmp_path / "record").write_text("whole", encoding="utf-8")
        monkeypatch.setattr("pyarrow.memory_map", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            place.store().put("record", tmp_path)
        assert stored(place) == []

    def test_a_worker_brings_what_a_trial_leaves_and_the_record_last(self, place: Place, brought: list[str]) -> None:
        with place.trial("a") as (results, saved):
            scratch = results.root
            write_text(results.checkpoints("a") / "epoch-000001.pt", "1")
            saved()
            leave_trial(results, "a")
        assert brought == [
            "checkpoints/a/epoch-000001.pt",
            "errors/a.npz",
            "detectors/a/weights.safetensors",
            "records/a.json",
        ]
        assert stored(place) == sorted(brought[1:])
        assert not scratch.exists()

    def test_a_trial_goes_on_elsewhere_from_the_checkpoints_in_the_store(self, place: Place) -> None:
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

    def test_the_checkpoints_of_a_training_stay_until_its_last_trial_has_ended(self, place: Place) -> None:
        """Two trials are read along a training, which is the second one's to keep."""
        with place.trial("b", stem="s") as (kept, saved):
            write_text(kept.checkpoints("s") / "epoch-000001.pt", "1")
            saved()
            with place.trial("a") as (results, _):
                leave_trial(results, "a")
            write_text(kept.checkpoints("s") / "epoch-000002.pt", "2")
            saved()
            assert "checkpoints/s/epoch-000001.pt" in stored(place)
            with place.trial("c", stem="s") as (results, _):
                assert (results.checkpoints("s") / "epoch-000001.pt").exists(), "it goes on elsewhere"
                leave_trial(results, "c")
            leave_trial(kept, "b")
        assert [name for name in stored(place) if name.startswith("checkpoints")] == []

    def test_an_epoch_waits_at_its_end_for_the_checkpoint_of_the_one_before(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
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

    def test_the_driver_fetches_record_and_log_when_a_trial_ended_and_the_rest_after_the_stage(
        self, place: Place
    ) -> None:
        results = Results(Path(place.root))
        arriving = place.arriving(results)
        assert arriving.record("a") is None
        with place.trial("a") as (there, _):
            write_text(there.log_file("a"), "epoch 1\n")
            leave_trial(there, "a")
        record = arriving.record("a")
        assert record is not None
        assert record["status"] == "finished"
        assert results.log_file("a").read_text(encoding="utf-8") == "epoch 1\n"
        assert not results.errors_file("a").exists()
        place.collect()
        assert results.errors_file("a").read_text(encoding="utf-8") == "errors"
        assert (results.detector("a") / "weights.safetensors").exists()

    def test_a_record_that_the_driver_wrote_itself_is_brought_with_the_next_one(self, place: Place) -> None:
        results = Results(Path(place.root))
        arriving = place.arriving(results)
        write_json(results.record_file("stopped"), {"format": RECORD_FORMAT, "status": "stopped"})
        arriving.record("a")
        assert stored(place) == ["records/stopped.json"]

    def test_a_record_that_is_removed_is_gone_here_and_there(self, place: Place) -> None:
        results = Results(Path(place.root))
        for key in ("a", "b"):
            write_json(results.record_file(key), {"format": RECORD_FORMAT, "status": "failed"})
        place.publish(finished=False)
        arriving = place.arriving(results)
        for key in ("a", "never"):
            arriving.remove_record(key)
            assert arriving.record(key) is None
        assert stored(place) == ["records/b.json"]

    def test_a_unit_of_the_attack_stage_fetches_detectors_and_brings_its_record_last(
        self, place: Place, brought: list[str]
    ) -> None:
        with place.trial("a") as (results, _):
            leave_trial(results, "a")
        brought.clear()
        with place.unit() as results:
            assert (results.detector("a") / "weights.safetensors").read_text(encoding="utf-8") == "weights"
            write_json(results.attack_file("u"), {"format": RECORD_FORMAT, "rows": []})
            write_text(results.attack_file("u").with_suffix(".npz"), "images")
            write_json(results.corruption_file("v"), {"format": RECORD_FORMAT, "rows": []})
        assert brought == ["attacks/u.npz", "attacks/u.json", "corruptions/v.json"]

    def test_that_the_study_is_finished_is_said_last(self, place: Place, brought: list[str]) -> None:
        results = Results(Path(place.root))
        for path in (results.environment_file, results.trials_file, results.report / "index.html"):
            write_text(path, "{}")
        place.publish(finished=True)
        assert brought == ["report/index.html", "trials.csv", "environment.json"]

    def test_another_machine_goes_on_with_what_the_store_holds(self, place: Place, tmp_path: Path) -> None:
        results = Results(Path(place.root))
        write_text(results.study_file, "name: tiny\n")
        write_text(results.environment_file, "{}")
        write_text(results.root / "trials.csv", "trial\n")
        write_text(results.best / "3" / "weights.safetensors", "weights")
        write_text(results.ray / "log", "not kept")
        leave_trial(results, "a")
        place.publish(finished=False)
        early = {"study.yaml", "environment.json", "records/a.json", "errors/a.npz", "detectors/a/weights.safetensors"}
        assert set(stored(place)) == early
        place.publish(finished=True)
        assert set(stored(place)) == early | {"trials.csv", "best/3/weights.safetensors"}
        write_text(results.best / "8" / "weights.safetensors", "weights")
        (results.best / "3" / "weights.safetensors").unlink()
        place.publish(finished=True)
        assert "best/3/weights.safetensors" not in stored(place)
        other = Place.of(Results(tmp_path / "other" / "tiny"), place.url)
        other.fetch()
        root = Path(other.root)
        assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == stored(place)

    def test_a_folder_that_holds_another_study_than_the_store_is_refused_and_left_alone(
        self, place: Place, tmp_path: Path
    ) -> None:
        write_text(Results(Path(place.root)).study_file, "name: tiny\n")
        place.publish(finished=False)
        other = Results(tmp_path / "other" / "tiny")
        write_text(other.study_file, "name: tiny\nseeds: [1]\n")
        with pytest.raises(UserError, match=r"other/tiny has another study than .*/tiny; remove"):
            Place.of(other, place.url).fetch()
        assert other.study_file.read_text(encoding="utf-8") == "name: tiny\nseeds: [1]\n"
