"""The first screen: what the card says, with labels, without them, and with a winner for each task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from puzzle_study.inference.calibration import flagged_shares
from puzzle_study.reporting import curves, load_study, winning
from puzzle_study.reporting.blocks import Card, Fact, Figure
from puzzle_study.reporting.scores import TrialScores
from puzzle_study.reporting.sections import verdict
from puzzle_study.results import Results

from .pages import Page, edited
from .synthetic import SMALL, write_study

EMPTY = np.array([], dtype=np.str_)


def card_of(results: Results) -> tuple[Card, list[str]]:
    """Return the card of a study and the names of the figures below it."""
    card, *figures = verdict.build(load_study(results.root)).blocks
    assert isinstance(card, Card)
    return card, [figure.name for figure in figures if isinstance(figure, Figure)]


def facts(card: Card) -> dict[str, Fact]:
    return {fact.name: fact for fact in card.facts}


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.3, 1.0])
def test_caught_anomalies_are_counted_at_every_threshold(rate: float) -> None:
    """Against a loop over all thresholds, with ties."""
    for seed in range(20):
        _check_caught(np.random.default_rng(seed).integers(0, 7, size=2 + seed).astype(np.float64), rate)


def _check_caught(test: NDArray[np.float64], rate: float) -> None:
    labels = np.arange(len(test)) % 2 == 0
    validation = np.array([1.0, 2.0, 3.0])
    scored = TrialScores(validation, validation, np.array([]), EMPTY, test, labels, EMPTY)
    curve = curves._curve(("set", "0", 0, 0), scored)
    best = max(
        (test[labels] >= threshold).mean()
        for threshold in [*test, np.inf]
        if (test[~labels] >= threshold).mean() <= rate
    )
    assert curve.caught_at(rate) == pytest.approx(best)
    flagged = flagged_shares(validation, test, labels)
    assert (curve.alarms, curve.caught) == (flagged["flagged_normal"], flagged["flagged_anomalous"])
    assert curve.tpr_G[-1] == 1
    assert curve.precision_G[-1] == pytest.approx(labels.mean())


@pytest.mark.slow
def test_the_card_says_what_the_sections_below_say(study: Results, report: Page) -> None:
    card, figures = card_of(study)
    told = facts(card)
    assert figures == ["verdict", "roc", "precision_recall"]
    assert card.warns
    assert card.headline.startswith("Nearest neighbour, a cheap reference, beats the winner: AUROC ")
    best = report.table("ranking")[0]
    assert told["Winner"].note.startswith(f"configuration {best['configuration']}; reading ")
    assert told["Test AUROC"].value == f"{100 * float(best['auroc']):.1f} %"
    assert "n = 6 trials of 3 tasks" in told["Test AUROC"].note
    weakest = min(
        float(row["auroc"])
        for row in report.table("robustness")
        if "winner" in row["label"] and row["method"] != "noise"
    )
    assert told["The strongest attack leaves"].value == f"{100 * weakest:.1f} %"
    assert "shift 4.2 pixels, severity 5 of 5" in told["The worst corruption leaves"].note
    assert "attack1: " in card.foot
    assert "attack2: " in card.foot
    assert report.html.index("attack1: ") < report.html.index("attack1 on ") if "attack1 on " in report.html else True
    assert not card.command, "there is no best/ here"


def test_the_command_names_a_detector_of_the_winner(tmp_path: Path) -> None:
    results = write_study(tmp_path / "x", SMALL)
    for name in ("0-seed0", "0-seed1"):
        (results.best / name).mkdir(parents=True)
        (results.best / name / "detector.json").write_text("{}", encoding="utf-8")
    card, _ = card_of(results)
    assert card.command == f"puzzle-study score {results.best / '0-seed0'} IMAGES --overlay maps/"
    assert card.use.startswith("2 detectors are in ")
    told = facts(card)
    assert told["The strongest attack leaves"].value == "not attacked"
    assert told["The worst corruption leaves"].value == "not measured"


def test_without_labels_the_card_says_what_is_not_known(tmp_path: Path) -> None:
    results = write_study(tmp_path / "x", replace(SMALL, matrices=False))
    with edited(results.trials_file) as trials:
        trials["n_anomalies"] = 0
        for way in ("min", "avg", "max"):
            trials[f"flagged_normal_{way}"], trials[f"flagged_anomalous_{way}"] = 0.04, np.nan
        for name in trials.columns:
            if name.startswith(("auroc", "last20", "fpr", "average")):
                trials[name] = np.nan
    with edited(results.summary_file) as summary:
        summary["auroc_mean"] = np.nan
    card, figures = card_of(results)
    told = facts(card)
    assert card.warns
    assert "how well it finds anomalies is unknown: no anomalies in the test images" in card.headline
    assert told["Test AUROC"].value == "no labels"
    assert told["Best cheap reference"].value == "unknown"
    caught = next(fact for name, fact in told.items() if name.startswith("Anomalies caught"))
    assert caught.value == "unknown"
    assert "4.0 % false alarms" in caught.note
    assert figures == ["verdict"], "bars of the AUROC against pseudo-anomalies, and no curves"


def test_each_task_has_its_own_winner_on_the_card(tmp_path: Path) -> None:
    recipe = replace(SMALL, classes=("0", "1"), configurations=2, settings={"choose": "per_task"})
    results = write_study(tmp_path / "x", recipe)
    with edited(results.summary_file) as summary:
        own = summary[summary["role"] == "configuration"].drop_duplicates("configuration").index
        summary["wins"] = ""
        summary.loc[own[0], "wins"], summary.loc[own[1], "wins"] = "0", "1"
    data = load_study(results.root)
    won = winning.won(data)
    assert won is not None
    chosen = [data.choice(data.summary.loc[place]) for place in own]
    values = [data.metric(choice)[data.metric(choice).index.get_level_values("normal_class") == name].iloc[0]
              for choice, name in zip(chosen, ("0", "1"), strict=True)]  # fmt: skip
    mean = won.mean()
    assert mean is not None
    assert mean.value == pytest.approx(np.mean(values))
    card, _ = card_of(results)
    told = facts(card)
    assert told["Winner"].value == "2 winners"
    assert told["Winner"].note.startswith(f"0: Puzzle-AE, {data.called(chosen[0])}, ")
    assert told["Test AUROC"].value == f"{100 * float(np.mean(values)):.1f} %"


def test_nothing_won(tmp_path: Path) -> None:
    card, figures = card_of(write_study(tmp_path / "x", replace(SMALL, classes=("0", "1"), failed=1)))
    assert card.headline.startswith("No configuration finished")
    assert figures == []
