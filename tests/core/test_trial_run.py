"""Whole trials on the digits: interrupted and resumed, failed, and what they leave behind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from puzzle_study import config, datasets
from puzzle_study.config import Reading
from puzzle_study.criteria.kinds.registry import KINDS
from puzzle_study.criteria.pseudo_anomalies import selection
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors import checkpoint, files
from puzzle_study.detectors.files import load_detector
from puzzle_study.detectors.puzzle_ae.training import Trainer
from puzzle_study.detectors.scoring import READINGS, chosen_views
from puzzle_study.results import RECORD_FORMAT, Results
from puzzle_study.trials import following, run
from puzzle_study.trials.reading import completed, metrics_of
from puzzle_study.trials.record import Record, read_record, records
from puzzle_study.trials.spec import TrialSpec

from . import tiny
from .tiny import CPU

pytestmark = pytest.mark.slow

EPOCHS = 3
FAMILIES = ("patch", "order", "light", "detail", "shape", "blend")
VALUES: dict[str, Any] = tiny.SMALL | {"train.epochs": EPOCHS}
TIMES = ("train_seconds", "evaluation_seconds", "score_seconds", "images_per_second")
Whole = tuple[TrialSpec, Results, Record]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUZZLE_STUDY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def numbers(record: Record) -> Record:
    """A record without its times."""
    measured = {name: value for name, value in record.measured.items() if name not in TIMES}
    return replace(record, seconds=0.0, measured=measured)


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def interrupt_after(epoch: int) -> Callable[[dict[str, float]], None]:
    def on_epoch(row: dict[str, float]) -> None:
        if row["epoch"] == epoch:
            raise Interrupted

    return on_epoch


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A trial that ran through."""
    spec, results = tiny.trial(VALUES), Results(tmp_path_factory.mktemp("whole"))
    return spec, results, run.run(spec, results, device=CPU)


def same_errors(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_the_same_trial_gives_the_same_record_and_errors_twice(whole: Whole, tmp_path: Path) -> None:
    spec, results, record = whole
    again = run.run(spec, Results(tmp_path), device=CPU)
    assert numbers(again) == numbers(record)
    assert same_errors(Results(tmp_path).errors(spec.key), results.errors(spec.key))


@pytest.mark.parametrize("kind", ["puzzle_ae", "untrained"])
def test_classes_start_from_weights_of_their_own_under_the_same_seed(kind: str, tmp_path: Path) -> None:
    specs = [replace(tiny.trial(VALUES | {"train.epochs": 0}, kind=kind), task=TaskSpec("digits", c)) for c in "34"]
    states = []
    for spec in specs:
        run.run(spec, Results(tmp_path), device=CPU)
        detector = files.load_detector(Results(tmp_path).detector(spec.key), device=CPU)
        states.append(detector.state_dict())
    assert not tiny.same_state(states[0], states[1])


BAD_RECORDS: list[dict[str, Any]] = [
    {"format": 1},
    {"format": RECORD_FORMAT - 1},
    {"settings": {"detector": "nobodys"}},
    {"settings": {}},
    {"metrics": None, "task": 3},
]


@pytest.mark.parametrize("changed", BAD_RECORDS, ids=str)
def test_a_record_of_another_version_or_of_a_detector_that_is_not_there_does_not_count(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    results, good, bad = Results(tmp_path), Record(tiny.trial(), "finished"), Record(tiny.trial(seed=1), "finished")
    results.write_record(good.spec.key, good.to_json())
    results.write_record(bad.spec.key, bad.to_json() | changed)
    assert read_record(results, bad.spec.key) is None
    assert records(results) == [good]


@pytest.mark.parametrize(("cut", "damaged"), [*((cut, False) for cut in range(1, EPOCHS + 1)), (2, True)])
def test_an_interrupted_trial_goes_on_to_the_same_record_and_errors(
    cut: int, damaged: bool, whole: Whole, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From the checkpoint before the newest one, if that is damaged."""
    spec, results, record = whole
    interrupted = Results(tmp_path)
    with pytest.raises(Interrupted):
        run.run(spec, interrupted, device=CPU, on_epoch=interrupt_after(cut))
    assert read_record(interrupted, spec.key) is None
    newest = checkpoint.checkpoints(interrupted.checkpoints(spec.key))[-1]
    if damaged:
        newest.write_bytes(newest.read_bytes()[:1000])
    seen: list[float] = []
    resumed = run.run(spec, interrupted, device=CPU, on_epoch=lambda row: seen.append(row["epoch"]))
    assert seen == list(range(cut + 1 - damaged, EPOCHS + 1))
    assert (str(newest) in caplog.text) is damaged
    assert numbers(resumed) == numbers(record)
    assert same_errors(interrupted.errors(spec.key), results.errors(spec.key))


def test_the_seconds_of_an_interrupted_trial_are_those_of_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two epochs 1,000 s go by; the second process has another clock."""
    spec, results, now = tiny.trial(VALUES), Results(tmp_path), [0.0]
    for module in (run, following):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def tick(row: dict[str, float]) -> None:
        now[0] += 1000
        interrupt_after(2)(row)

    with pytest.raises(Interrupted):
        run.run(spec, results, device=CPU, on_epoch=tick)
    now[0] = 7e6
    record = run.run(spec, results, device=CPU, on_epoch=tick)
    assert record.seconds == 2000, "what came after the last checkpoint is lost, as its work is"


def test_the_record_is_whole_and_plain_json(whole: Whole) -> None:
    spec, results, record = whole
    assert (record.status, record.error, record.column("epochs"), record.spec) == ("finished", "", EPOCHS, spec)
    content = json.loads(json.dumps(record.to_json(), allow_nan=False))
    assert content == results.record(spec.key)
    assert (content["trial"], content["detector"]) == (spec.key, "puzzle_ae")
    assert Record.from_json(content) == read_record(results, spec.key)
    assert record.history["epoch"] == [1, 2, 3]
    evaluated = [value is not None for value in record.history["auroc_max_l2"]]
    assert evaluated == [False, True, True], "every second epoch and the last one"


def test_a_finished_trial_leaves_its_detector_and_no_checkpoint(whole: Whole) -> None:
    spec, results, _ = whole
    assert not results.checkpoints(spec.key).exists()
    detector = files.load_detector(results.detector(spec.key), device=CPU)
    task = datasets.load_task(spec.settings.data, spec.task)
    errors = results.errors(spec.key)
    assert np.array_equal(detector.error_matrix(task.test).numpy(), errors["test"])
    assert np.array_equal(detector.error_matrix(task.validation).numpy(), errors["validation"])
    assert torch.equal(detector.validation_NK, torch.from_numpy(errors["validation"]))
    assert np.array_equal(errors["labels"], task.labels.numpy())


@pytest.mark.parametrize("reading", READINGS, ids=str)
def test_recorded_metrics_follow_from_the_error_matrices(reading: Reading, whole: Whole) -> None:
    """The AUROC is counted pair by pair from the files alone, by eqs. 6 and 7."""
    spec, results, record = whole
    errors = results.errors(spec.key)
    norm: Any = np.sqrt if reading.error == "l2" else np.asarray
    rows = {name: norm(errors[name]) for name in ("validation", "pseudo", "test")}
    mean_K = rows["validation"].mean(0)
    reduce: Any = {"min": np.min, "avg": np.mean, "max": np.max}[reading.aggregation]
    scores = {name: reduce(values / mean_K, axis=1) for name, values in rows.items()}

    def auroc(normal: Any, anomalous: Any) -> float:
        return float(np.mean([(a > n) + 0.5 * (a == n) for a in anomalous for n in normal]))

    test = scores["test"]
    expected = auroc(test[~errors["labels"]], test[errors["labels"]])
    assert record.value(reading, "auroc") == pytest.approx(expected, abs=0.02)
    kinds = errors["pseudo_kind"]
    by_kind = {kind: auroc(scores["validation"], scores["pseudo"][kinds == kind]) for kind in np.unique(kinds)}
    families = [[by_kind[kind] for kind in by_kind if KINDS[kind].family == family] for family in FAMILIES]
    assert record.value(reading, "selection") == pytest.approx(np.mean(list(map(np.mean, families))), abs=0.02)
    assert all(record.value(reading, f"pseudo_{kind}") == pytest.approx(by_kind[kind], abs=0.03) for kind in by_kind)


def test_fewer_views_measure_the_selection_and_all_views_the_rest(whole: Whole, tmp_path: Path) -> None:
    spec, results = tiny.trial(VALUES | {"evaluate.views": 4}), Results(tmp_path)
    record, all_views = run.run(spec, results, device=CPU), whole[2]
    errors, whole_errors = results.errors(spec.key), whole[1].errors(whole[0].key)
    assert (record.column("k"), record.column("selection_k")) == (6, 4)
    assert (all_views.column("k"), all_views.column("selection_k")) == (6, 6)
    for name in ("validation", "test"):
        assert np.array_equal(errors[name], whole_errors[name])
    chosen = chosen_views(6, 4)
    assert errors["pseudo"] == pytest.approx(whole_errors["pseudo"][:, chosen], rel=1e-5)
    for reading in READINGS:
        measured, expected = record.read(reading), all_views.read(reading)
        for name in ("auroc", "auroc_low", "average_precision", "flagged_normal", "flagged_anomalous"):
            assert measured[name] == expected[name], name
        norm: Any = np.sqrt if reading.error == "l2" else np.asarray
        reduce: Any = {"min": np.min, "avg": np.mean, "max": np.max}[reading.aggregation]
        rows = {name: norm(whole_errors[name][:, chosen]) for name in ("validation", "pseudo")}
        scores = {name: reduce(values / rows["validation"].mean(0), axis=1) for name, values in rows.items()}
        assert measured["selection"] == pytest.approx(
            selection(scores["validation"], scores["pseudo"], tuple(errors["pseudo_kind"])), abs=0.005
        )
    saved, whole_saved = (
        load_detector(folder, device=CPU) for folder in (results.detector(spec.key), whole[1].detector(whole[0].key))
    )
    assert tiny.same_state(saved.state_dict(), whole_saved.state_dict())


def test_a_number_of_permutations_reads_the_same_training_to_the_bit(whole: Whole, tmp_path: Path) -> None:
    """By a trial of its own, by a study that searches the number, and from the matrices of an earlier study."""
    spec, results, all_views = whole
    own, searched = tiny.trial(VALUES | {"score.permutations": 4}), replace(spec, views=(2, 4))
    assert own.key == searched.key == spec.key
    separate, axis = (run.run(one, Results(tmp_path / str(one.views)), device=CPU) for one in (own, searched))
    afterwards = completed(all_views, searched, results)
    assert afterwards is not None
    for error, aggregation in ((reading.error, reading.aggregation) for reading in READINGS):
        for count, found in ((4, separate), (4, afterwards), (2, afterwards)):
            reading = Reading.of(error, aggregation, count)
            assert dict(found.read(reading)) == dict(axis.read(reading))
        assert axis.read(Reading(error, aggregation)) == all_views.read(Reading(error, aggregation))
    errors = results.errors(spec.key)
    fewer = {name: errors[name][:, chosen_views(6, 4)] for name in ("validation", "pseudo", "test")}
    by_hand = metrics_of(fewer, tuple(errors["pseudo_kind"]), errors["labels"], READINGS)["mse"]["max"]
    assert {**by_hand, "val_error": None} == {**separate.read(Reading("mse", "max of 4")), "val_error": None}
    assert separate.spec.settings.own.reading == Reading("l2", "max of 4")
    saved = load_detector(Results(tmp_path / "()").detector(own.key), device=CPU)
    assert saved.reading == Reading("l2", "max of 4")
    images = tiny.images(3)
    alone = saved.of_views(4)
    assert alone.views == 4
    torch.testing.assert_close(
        alone.scores(alone.error_matrix(images)), saved.scores(saved.error_matrix(images)), rtol=1e-5, atol=0
    )


def test_without_its_matrices_a_record_of_fewer_readings_is_not_kept(whole: Whole, tmp_path: Path) -> None:
    spec, _, record = whole
    assert completed(record, spec, Results(tmp_path)) is record
    assert completed(record, replace(spec, views=(4,)), Results(tmp_path)) is None


@pytest.mark.parametrize(("factor", "what"), [(math.nan, "is not finite"), (1e9, "diverges")])
def test_a_training_that_diverges_leaves_a_failed_record_with_its_epoch(
    factor: float, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer._step

    def explode(self: Trainer, x_NCHW: torch.Tensor) -> torch.Tensor:
        return original(self, x_NCHW) * (factor if self.epochs_done == 1 else 1)

    monkeypatch.setattr(Trainer, "_step", explode)
    spec, results = tiny.trial(VALUES), Results(tmp_path)
    record = run.run(spec, results, device=CPU)
    assert record.status == "failed"
    assert record.error.startswith(f"the loss {what} after epoch 2 (reconstruction ")
    assert read_record(results, spec.key) == record
    assert not results.checkpoints(spec.key).exists()


def test_a_setting_that_does_not_fit_the_images_fails_the_trial_with_its_sentence(tmp_path: Path) -> None:
    spec = tiny.trial(VALUES | {"puzzle.permutations": "drawn"})
    record = run.run(spec, Results(tmp_path), device=CPU)
    assert record.status == "failed"
    sentence = "puzzle.permutations `drawn` needs puzzle.grid 3; four pieces have `all` 23 or `two_swapped`"
    assert record.error == f"{sentence} (see logs/{spec.key}.log)"


def test_zero_epochs_score_with_the_untrained_network(tmp_path: Path) -> None:
    spec = tiny.trial(VALUES | {"train.epochs": 0})
    record = run.run(spec, Results(tmp_path), device=CPU)
    assert (record.status, record.column("epochs"), record.history) == ("finished", 0, {})


@pytest.mark.parametrize("setting", ["evaluate.max_images", "evaluate.robust.max_images"])
def test_fewer_test_images_than_classes_still_have_an_auroc(setting: str, tmp_path: Path) -> None:
    record = run.run(tiny.trial(VALUES | {"train.epochs": 1, setting: 2}), Results(tmp_path), device=CPU)
    assert record.status == "finished"
    robust = record.value(Reading("l2", "max"), "robust_auroc") if "robust" in setting else 0
    followed = record.history["auroc_max_l2"][-1]
    assert robust is not None
    assert followed is not None
    assert 0 <= robust <= 1
    assert 0 <= followed <= 1


@pytest.mark.parametrize("reference", ["nearest_neighbour", "pca", "one_class_svm"])
def test_references_leave_a_record_of_the_same_form(reference: str, whole: Whole, tmp_path: Path) -> None:
    spec = tiny.trial(VALUES, kind=reference)
    record = run.run(spec, Results(tmp_path), device=CPU)
    assert record.measured.keys() == whole[2].measured.keys()
    assert record.metrics["l2"]["max"].keys() == whole[2].metrics["l2"]["max"].keys()
    assert record.finished
    assert Results(tmp_path).errors(spec.key).keys() == whole[1].errors(whole[0].key).keys()


def test_a_node_with_other_images_trains_nothing_and_says_so(tmp_path: Path) -> None:
    spec, results = tiny.trial(VALUES), Results(tmp_path)
    record = run.run(spec, results, device=CPU, images=spec.settings.data)
    assert record.status == "failed"
    assert record.error.startswith("the images in data.root on ")
    assert "differ from those that the study was started with" in record.error
    assert not results.errors_file(spec.key).exists()


def test_the_images_of_a_study_are_looked_at_once_per_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny.settings(VALUES | {"data.split_seed": 5}).data
    looked: list[config.Data] = []

    def fingerprint(section: config.Data) -> str:
        looked.append(section)
        return "0" * 16

    monkeypatch.setattr(datasets, "fingerprint", fingerprint)
    for seed in (0, 1):
        assert run.run(tiny.trial(VALUES, seed=seed), Results(tmp_path), device=CPU, images=data).finished
    assert looked == [data]
