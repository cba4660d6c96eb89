"""MODEL_CARD.md: what it says is what the records and the detector say."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from puzzle_study.detectors.files import load_detector
from puzzle_study.errors import UserError
from puzzle_study.inference.calibration import Calibration
from puzzle_study.reporting import model_card, reading, write_model_cards
from puzzle_study.reporting.cells import share, significant
from puzzle_study.reporting.study_data import StudyData
from puzzle_study.results import MODEL_CARD, Results
from puzzle_study.trials.record import read_record


@pytest.fixture
def results(searched: Path, tmp_path: Path) -> Results:
    return Results(Path(shutil.copytree(searched / "results" / "digits", tmp_path / "digits")))


@pytest.fixture
def data(results: Results) -> StudyData:
    return reading.load(results, {"finished": "2026-01-02T03:04:05+00:00"})


def test_each_detector_of_the_winner_gets_the_numbers_of_its_own_record(data: StudyData) -> None:
    write_model_cards(data.results, data.environment)
    assert data.winner is not None
    for name in ("3", "8"):
        folder = data.results.best / name
        text = (folder / MODEL_CARD).read_text(encoding="utf-8")
        key = json.loads((folder / "detector.json").read_text(encoding="utf-8"))["trial"]
        record = read_record(data.results, key)
        assert record is not None
        auroc, low, high = (
            float(record.value(data.winner.reading, f"auroc{end}") or 0) for end in ("", "_low", "_high")
        )
        assert f"# Puzzle-AE for {name}\n" in text
        assert f"| AUROC | {share(auroc)} [{share(low)}, {share(high)}] |" in text
        assert "| AUROC of nearest neighbour, a cheap reference | " in text
        assert re.search(rf"^\| trained on, normal \| {record.measured['n_train']} \|$", text, re.M)
        # The threshold is the one that `score` uses.
        threshold = Calibration.of(load_detector(folder, device=torch.device("cpu"))).threshold(0.05)
        assert f"\n{significant(threshold, 4)} for a false-alarm rate of 5 %" in text
        assert f"puzzle-study score results/digits/best/{name} IMAGES" in text
        assert "2026-01-02" in text
        assert "was not attacked" in text
        assert "was not measured (`corruptions`" in text
        assert "base_channels: 2" in text
        assert "Test labels" not in text
        assert "\n\n\n" not in text


def test_a_card_says_what_hurts(data: StudyData) -> None:
    folder = data.results.best / "3"
    key = json.loads((folder / "detector.json").read_text(encoding="utf-8"))["trial"]
    common = {"trial": key, "attack": "attack1", "epsilon": 0.1, "target": "both", "auroc_low": 0.1, "auroc_high": 0.3}
    rows = [common | {"method": "fgsm", "auroc": 0.5}, common | {"method": "pgd", "auroc": 0.2}]
    attacked = pd.DataFrame([*rows, common | {"method": "noise", "auroc": 0.0}])
    changed = pd.DataFrame(
        [
            {"trial": key, "corruption": name, "severity": severity, "auroc": auroc, "flagged_normal": alarms}
            for name, severity, auroc, alarms in [("none", 0, 0.1, 0.9), ("shift", 1, 0.7, 0.2), ("shift", 5, 0.6, 0.4)]
        ]
    )
    assert data.study is not None
    study = data.study.model_copy(update={"selection": "oracle"})
    text = model_card.card(replace(data, attacks=attacked, corruptions=changed, study=study, memory={}), folder)
    assert "| attack1, pgd, target both | 0.1 | 20.0 [10.0, 30.0] |" in text
    assert "shift at severity 5 of 5, which leaves AUROC 60.0 %, 40.0 % false alarms" in text
    no_auroc = model_card.card(replace(data, corruptions=changed.assign(auroc=float("nan")), memory={}), folder)
    assert "shift at severity 5 of 5, which leaves 40.0 % false alarms" in no_auroc
    assert "fgsm" not in text.partition("## Limits")[0]
    assert "**Test labels were used to choose it.**" in text


def test_a_card_of_a_test_without_anomalies_says_so_and_has_the_false_alarms(data: StudyData) -> None:
    folder = data.results.best / "3"
    key = json.loads((folder / "detector.json").read_text(encoding="utf-8"))["trial"]
    path = data.results.record_file(key)
    record = json.loads(path.read_text(encoding="utf-8"))
    record["measured"]["n_anomalies"] = 0
    for values in (own for by_error in record["metrics"].values() for own in by_error.values()):
        values.update(dict.fromkeys(set(values) - {"flagged_normal", "selection"}))
        values["flagged_normal"] = 0.125
    path.write_text(json.dumps(record), encoding="utf-8")
    data.trials.loc[data.trials["trial"] == key, "n_anomalies"] = 0
    text = model_card.card(data, folder)
    assert "Nothing: no anomalies in the test images. How many anomalies it finds is unknown." in text
    assert "it flags 12.5 % of the normal ones" in text
    assert "None" not in text


def test_names_of_folders_stay_on_their_line_and_without_markup(data: StudyData) -> None:
    assert model_card._plain("a|b\n# <script>`x`") == "a_b # _script__x_"


def test_a_card_without_its_record_is_one_sentence(data: StudyData) -> None:
    (data.results.root / "records").rename(data.results.root / "gone")
    with pytest.raises(UserError, match="is missing or damaged; train it again with --resume"):
        model_card.card(data, data.results.best / "3")
