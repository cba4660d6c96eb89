"""What the report says of attacks: at the threshold, converged or not, how small, certified, of references too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from puzzle_study.reporting import build_report
from puzzle_study.results import Results
from tests.reporting.conftest import Small
from tests.reporting.pages import Page

TEXT = {"configuration": str, "trial": str, "normal_class": str}
OF_VICTIM = ["configuration", "label", "trial", "dataset", "normal_class", "seed", "aggregation", "error"]


@pytest.fixture
def page(small: Small) -> Page:
    """The report of a study whose winner and reference were attacked with everything that there is to ask for."""
    results = small(configurations=4, attacks=True, epochs=False, matrices=False)
    attacks = pd.read_csv(results.attacks_file, dtype=TEXT)
    attacks = attacks[attacks["label"] == "winner"].assign(
        restarts=1, flagged_normal=0.4, flagged_normal_clean=0.05, flagged_anomalous=0.3, flagged_anomalous_clean=0.9
    )
    trials = pd.read_csv(results.trials_file, dtype=TEXT)
    reference = trials[trials["role"] == "reference"].iloc[0]
    own = {"configuration": reference["configuration"], "trial": reference["trial"], "label": "reference"}
    attacks = pd.concat([attacks, attacks.assign(**own, aggregation="avg", error="mse")])
    held = (attacks["method"] == "pgd") & (attacks["attack"] == "attack1") & (attacks["epsilon"] == 0.2)
    values = {"images": 8, "strength": 1.0, "strength_strongest": 1.1, "auroc": 0.5, "auroc_strongest": 0.4}
    for name, value in {**values, "auroc_1": 0.7, "auroc_10": 0.5, "auroc_100": 0.45}.items():
        attacks.loc[held, f"subset_{name}"] = value
    attacks.loc[held & (attacks["label"] == "winner"), "flags"] = "not_converged"
    attacks.to_csv(results.attacks_file, index=False)
    _write_smallest(results, attacks)
    _write_certified(results, attacks)
    return Page(build_report(results))


def _victims(attacks: pd.DataFrame) -> pd.DataFrame:
    return attacks[OF_VICTIM].drop_duplicates()


def _write_smallest(results: Results, attacks: pd.DataFrame) -> None:
    """Normal images that need 0, 0.05 and 0.1, and anomalies that nothing changes."""
    images = pd.DataFrame(
        {
            "image": range(6),
            "anomalous": [False] * 3 + [True] * 3,
            "epsilon_image": [0.0, 0.05, 0.1] + [np.nan] * 3,
            "epsilon_half": 0.15,
            "method": "pgd",
            "epsilon": 0.2,
        }
    )
    _victims(attacks).merge(images, how="cross").to_csv(results.smallest_file, index=False)


def _write_certified(results: Results, attacks: pd.DataFrame) -> None:
    radii = pd.DataFrame({"radius": [0.0, 0.5], "auroc": [0.9, 0.6], "flagged_normal": [0.1, 0.5]})
    settings: dict[str, Any] = {"sigma": 0.25, "samples": 1000, "alpha": 0.001, "target": "both", "images": 60}
    radii = radii.assign(flagged_anomalous=[0.8, 0.3], auroc_smoothed=0.92, **settings)
    _victims(attacks).merge(radii, how="cross").to_csv(results.certified_file, index=False)


def test_everything_that_was_asked_of_an_attack_is_told(page: Page) -> None:
    rows = page.table("robustness")
    assert {row["label"].split(", ")[-1] for row in rows} == {"winner", "PCA (reference)"}
    assert {(float(row["fpr"]), float(row["tpr"])) for row in rows} == {(0.4, 0.3)}
    assert "5 → 40" in page.html
    held = {row["label"].split(", ")[-1]: row for row in page.table("convergence")}
    assert set(held) == {"winner", "PCA (reference)"}
    winner = held["winner"]
    along = [float(winner[name]) for name in ("auroc_1", "auroc_10", "auroc_100", "strongest")]
    assert along == [0.7, 0.5, 0.45, 0.4]
    assert float(winner["gain"]) == pytest.approx(0.1)
    assert (float(winner["flagged"]), float(held["PCA (reference)"]["flagged"])) == (1, 0)
    normal, anomalous = (row for row in page.table("smallest_epsilon") if row["label"].endswith("winner"))
    assert (float(normal["median"]), float(normal["half"])) == (0.05, 0.15)
    assert float(normal["clean"]) == pytest.approx(1 / 3, abs=1e-3)
    assert float(anomalous["median"]) == 0.2
    assert "&gt; 0.2" in page.html
    certified = [float(row["auroc"]) for row in page.table("certified") if row["label"].endswith("winner")]
    assert certified == [0.9, 0.6]
    # One detector was studied, and the reference is a point beside it.
    assert "Scatter of AUROC under attack against AUROC without it for 2 detectors" in page.html
