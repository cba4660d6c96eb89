"""Who wins: by each criterion, for all tasks or for each, from trainings of a second, without a look at the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from puzzle_study import datasets
from puzzle_study.criteria.registry import CRITERIA
from puzzle_study.datasets import Task, TaskSpec
from puzzle_study.detectors.files import load_detector
from puzzle_study.errors import UserError
from puzzle_study.reporting import write_model_cards
from puzzle_study.results import MODEL_CARD
from puzzle_study.statistics import metrics
from puzzle_study.study import best
from puzzle_study.study.engine import winner_lines
from puzzle_study.study.plan import Plan
from puzzle_study.study.tables import write_tables
from puzzle_study.trials import run
from tests.study.conftest import DIGITS, plan_of

STUDY = """
data: {name: digits, max_train_images: 60, max_test_images: 40}
detectors: {pca: {}, nearest_neighbour: {}, one_class_svm: {}}
references: []
"""
TASKS = [DIGITS[3], DIGITS[8]]
LABEL_FREE = [name for name, criterion in CRITERIA.items() if not criterion.uses_labels]
CHOSEN = ("worth", "winner", "winners")


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Task], Task] | None = None) -> Plan:
    """A plan whose trials have run in this process, on a test set that may be spoiled."""
    plan = plan_of(folder, STUDY, TASKS)
    original = run._load

    def loaded(*arguments: object) -> Task:
        task = original(*arguments)
        return task if spoil is None else spoil(task)

    with monkeypatch.context() as patch:
        patch.setattr(run, "_load", loaded)
        run._bank.cache_clear()
        while (spec := plan.take()) is not None:
            plan.done(spec.key, run.run(spec, plan.results, device=torch.device("cpu")))
    return plan


def read_again(folder: Path, selection: str, choose: str = "per_task", **more: str) -> Plan:
    """The same trials, chosen from in another way."""
    lines = {"selection": selection, "choose": choose} | more
    plan = plan_of(folder, STUDY + "".join(f"{name}: {value}\n" for name, value in lines.items()), TASKS)
    assert plan.ended()
    return plan


def choices(folder: Path, selection: str) -> list[tuple[str, str]]:
    """What wins overall and on each task."""
    plan = read_again(folder, selection)
    overall = plan.winner()
    assert overall is not None
    return [(won[0].configuration, won[1].aggregation) for won in (overall, *plan.winners())]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The trials on the test set as it is, with wrong labels, and with garbage for images."""

    def wrong(task: Task) -> Task:
        return replace(task, labels=~task.labels)

    def garbage(task: Task) -> Task:
        generator = torch.Generator().manual_seed(1)
        noise = torch.randint(256, task.test.shape, generator=generator, dtype=torch.uint8)
        return replace(wrong(task), test=noise)

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, spoil in (("clean", None), ("labels", wrong), ("images", garbage)):
            found[name] = tmp_path_factory.mktemp(name)
            plan = trained(found[name], patch, spoil)
            write_tables(plan, plan.results)
    return found


@pytest.mark.parametrize("selection", [name for name in LABEL_FREE if not CRITERIA[name].repeated])
def test_nothing_of_the_test_changes_a_choice_without_labels(selection: str, folders: dict[str, Path]) -> None:
    """Wrong labels and garbage for test images; a transductive criterion sees the images, and no labels."""
    clean = choices(folders["clean"], selection)
    assert choices(folders["labels"], selection) == clean
    if not CRITERIA[selection].transductive:
        assert choices(folders["images"], selection) == clean


def test_wrong_labels_change_the_oracle(folders: dict[str, Path]) -> None:
    assert choices(folders["labels"], "oracle") != choices(folders["clean"], "oracle")


def test_the_table_of_the_selection_has_the_choices_of_plans(folders: dict[str, Path]) -> None:
    plan = read_again(folders["clean"], "borda", "overall")
    write_tables(plan, plan.results)
    table = pd.read_csv(plan.results.selection_file).query("scope == 'everything'").set_index("criterion")
    assert list(table.index[table["selected"]]) == ["borda"]
    for name in ("pseudo_anomalies", "borda", "consensus", "oracle"):
        winner = read_again(folders["clean"], name, "overall").winner()
        assert winner is not None
        assert table.loc[name, "chosen"] == f"{winner[0].configuration} {winner[1].aggregation} {winner[1].error}"
        aurocs = [plan.records[spec.key].value(winner[1], "auroc") for spec in winner[0].trials]
        assert table.loc[name, "auroc"] == pytest.approx(sum(aurocs) / len(aurocs))  # type: ignore[arg-type]
    assert table.loc["oracle", "lost"] == pytest.approx(0)
    summary = plan.results.table(plan.results.summary_file)
    assert list(summary.sort_values("rank")["goodness"]) == sorted(summary["goodness"], reverse=True)


def test_each_task_has_its_winner_in_best_in_the_tables_and_on_the_terminal(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = read_again(folders["clean"], "pseudo_anomalies")
    first, second = plan.configurations[:2]
    reading = plan.readings(first)[0]
    assert first.worth is not None
    assert second.worth is not None
    won = [(first, reading, first.worth[reading]), (second, reading, second.worth[reading])]
    monkeypatch.setattr(Plan, "winners", lambda _: won)
    best.write(plan, plan.results)
    detectors = [json.loads((plan.results.best / name / "detector.json").read_text())["detector"] for name in "38"]
    assert detectors == ["pca", "nearest_neighbour"]
    write_tables(plan, plan.results)
    write_model_cards(plan.results, {})
    assert all(path.exists() for path in best.files(plan, plan.results))
    heads = [(plan.results.best / name / MODEL_CARD).read_text(encoding="utf-8").partition("\n")[0] for name in "38"]
    assert heads == ["# PCA for 3", "# nearest neighbour for 8"]
    summary = plan.results.table(plan.results.summary_file).set_index("detector")
    assert summary["wins"].dropna().to_dict() == {"pca": "3", "nearest_neighbour": "8"}
    lines = winner_lines(plan, 1.0)
    assert [line.partition(",")[0] for line in lines[:2]] == ["winner for 3: PCA", "winner for 8: nearest neighbour"]


def test_what_is_expected_changes_what_a_record_is_worth_and_trains_nothing_again(folders: dict[str, Path]) -> None:
    worths = []
    for more in ({}, {"expect": "defects"}, {"expect": "other_objects"}, {"kinds": "[scar]"}):
        plan = read_again(folders["clean"], "pseudo_anomalies", **more)
        worths.append([next(iter((planned.worth or {}).values()))[0] for planned in plan.configurations])
    assert len(set(map(tuple, worths))) == 4
    record = next(iter(plan.records.values()))
    reading = plan.readings(plan.configurations[0])[0]
    assert record.value(reading, "selection") == pytest.approx(record.value(reading, "pseudo_scar"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("selection: stability", "at least two seeds"),
        ("selection: borda\nsearch: {objectives: [auroc], space: {pca.components: {choice: [4, 8]}}}", "leave one"),
        ("kinds: [blurr]", "blur"),
        ("expect: defect", "defects"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan_of(tmp_path, f"{STUDY}{more}\n", [TaskSpec("digits", "3")])


def test_an_ensemble_is_saved_for_each_task_and_scores_as_the_table_says(folders: dict[str, Path]) -> None:
    plan = read_again(folders["clean"], "ensemble")
    best.write(plan, plan.results)
    write_tables(plan, plan.results)
    table = pd.read_csv(plan.results.selection_file).query("scope == 'everything'").set_index("criterion")
    aurocs = []
    for spec in plan.configurations[0].trials:
        detector = load_detector(plan.results.best / spec.task.normal_class, device=torch.device("cpu"))
        task = datasets.load_task(plan.study.data, spec.task)
        assert detector.views == 3
        assert detector.scores(detector.validation_NK).mean() == pytest.approx(1, abs=1e-5)
        again = detector.error_matrix(task.validation)
        assert torch.allclose(again, detector.validation_NK, atol=1e-5)
        floats = task.test[:4].float() / 255
        assert torch.allclose(detector(floats), detector.scores(detector.error_matrix(task.test[:4])), rtol=1e-4)
        scores = detector.scores(detector.error_matrix(task.test))
        aurocs.append(metrics.auroc(scores.numpy(), task.labels.numpy()))
    assert table.loc["ensemble", "auroc"] == pytest.approx(sum(aurocs) / len(aurocs), abs=1e-3)
    write_model_cards(plan.results, {})
    assert all(path.exists() for path in best.files(plan, plan.results))
    card = (plan.results.best / "3" / MODEL_CARD).read_text(encoding="utf-8")
    assert card.startswith("# ensemble of ")
    assert f"| AUROC | {100 * aurocs[0]:.1f}" in card
    (line, *_) = winner_lines(plan, 1.0)
    assert line.startswith("winner for 3: ensemble of ")
    assert f"mean test AUROC {100 * aurocs[0]:.1f} %" in line


def test_an_ensemble_of_detectors_with_gradients_has_one(folders: dict[str, Path]) -> None:
    """Attacks need no more: the score's derivative along a direction is the finite difference."""
    plan = read_again(folders["clean"], "ensemble")
    best.write(plan, plan.results)
    detector = load_detector(plan.results.best / "3", device=torch.device("cpu"))
    task = datasets.load_task(plan.study.data, plan.tasks[0])
    x_NCHW = (task.test[:3].float() / 255).requires_grad_()
    (gradient,) = torch.autograd.grad(detector(x_NCHW).sum(), x_NCHW)
    direction = torch.randn(x_NCHW.shape, generator=torch.Generator().manual_seed(0))
    step = 1e-3 * direction
    with torch.no_grad():
        difference = (detector(x_NCHW + step) - detector(x_NCHW - step)).sum() / 2e-3
    assert detector.traits.differentiable
    assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=0.1, abs=0.02)
