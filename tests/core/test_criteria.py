"""Criteria on candidates that are given by their scores alone, against the obvious way to compute each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from puzzle_study.criteria.base import Candidate, Criterion, Scored, kind_aurocs
from puzzle_study.criteria.ensemble import TOP, blended, knots, members, normalised_rank
from puzzle_study.criteria.expecting import kind_weights
from puzzle_study.criteria.gap import Gap, selection_gaps
from puzzle_study.criteria.kinds.registry import KINDS
from puzzle_study.criteria.registry import CRITERIA

SPOILED = ("blur", "mixup", "scar")
ALIKE = dict.fromkeys(SPOILED, 1.0)
LABELS = np.repeat([False, True], [30, 20])
LABEL_FREE = [name for name, criterion in CRITERIA.items() if not criterion.uses_labels]


def scored(generator: np.random.Generator, found: float, *, image_N: np.ndarray | None = None) -> Scored:
    """Scores that find anomalies as well as ``found`` says; ``image_N`` is what all detectors see in a test image."""
    kinds = tuple(np.repeat(SPOILED, 15).tolist())
    seen_N = generator.normal(size=50) if image_N is None else image_N
    return Scored(
        generator.normal(size=40),
        generator.normal(size=45) + found * np.repeat([0.5, 1, 2], 15),
        kinds,
        found * (LABELS + 0.3 * seen_N) + generator.normal(size=50),
        LABELS,
        val_error=1 / (1 + found),
        earlier=(generator.normal(size=40), generator.normal(size=40)),
    )


def candidates_of(seed: int, *, seeds: int = 2) -> list[Candidate]:
    """Four configurations of two detectors, each under two readings, from bad to good."""
    generator = np.random.default_rng(seed)
    image_N = generator.normal(size=50)
    return [
        Candidate(
            f"c{number}",
            f"d{number % 2}",
            reading,
            tuple(scored(generator, number + 0.4 * (reading == "max"), image_N=image_N) for _ in range(seeds)),
            default=number < 2,
            own=reading == "avg",
        )
        for number in range(4)
        for reading in ("avg", "max")
    ]


def goodness(name: str, candidates: Sequence[Candidate]) -> np.ndarray:
    return np.asarray(CRITERIA[name].goodness(candidates, ALIKE))


def gap(name: str, scope: str, gaps: Sequence[Gap]) -> Gap:
    return next(one for one in gaps if (one.criterion, one.scope) == (name, scope))


def test_the_auroc_of_a_kind_is_that_of_its_rows_ties_included() -> None:
    generator = np.random.default_rng(0)
    validation, pseudo = generator.integers(5, size=20).astype(float), generator.integers(7, size=30).astype(float)
    kinds = tuple(np.array(SPOILED)[generator.integers(3, size=30)])
    for kind, value in kind_aurocs(validation, pseudo, kinds).items():
        rows = pseudo[np.array(kinds) == kind]
        labels = np.repeat([0, 1], [20, len(rows)])
        assert value == pytest.approx(roc_auc_score(labels, np.concatenate((validation, rows))))


@pytest.mark.parametrize(
    ("weights", "mean", "worst"),
    [
        (ALIKE, 0.7, 0.5),
        ({"blur": 1.0, "scar": 0.25, "mixup": 0.25}, 0.6 * 2 / 3 + (0.5 + 1.0) / 6, 0.6),
        ({"mixup": 1.0}, 1.0, 1.0),
        ({"jigsaw": 1.0}, 0.7, 0.5),  # of kinds that are not there none can count
    ],
)
def test_pseudo_anomalies_are_averaged_by_weight_and_the_worst_is_one_that_counts(
    weights: dict[str, float], mean: float, worst: float
) -> None:
    by_kind = {"blur": 0.6, "scar": 0.5, "mixup": 1.0}
    for name, expected in (("pseudo_anomalies", mean), ("worst_kind", worst)):
        assert CRITERIA[name].of_kinds(by_kind, weights) == pytest.approx(expected)  # type: ignore[attr-defined]


def test_what_is_expected_weights_the_kinds() -> None:
    unknown, defects, objects = (kind_weights(expect) for expect in ("unknown", "defects", "other_objects"))
    assert set(unknown) == set(KINDS)
    assert set(unknown.values()) == {1.0}
    assert defects["scar"] > defects["mixup"]
    assert objects["mixup"] > objects["scar"]
    assert kind_weights("defects", ["mixup"]) == {"mixup": defects["mixup"]}


def test_borda_averages_the_ranks_of_each_kind() -> None:
    candidates = candidates_of(0)
    ranks = [rankdata([np.mean([run.by_kind[kind] for run in one.runs]) for one in candidates]) for kind in SPOILED]
    expected = (np.mean(ranks, axis=0) - 1) / (len(candidates) - 1)
    assert goodness("borda", candidates) == pytest.approx(expected)


def test_a_lower_validation_error_is_better() -> None:
    assert (np.diff(goodness("val_error", candidates_of(0))) > 0).all()


def test_stability_compares_seeds_or_else_the_last_evaluations() -> None:
    one = candidates_of(0)[3]
    first, second = (np.concatenate((run.validation_N, run.pseudo_N)) for run in one.runs)
    assert goodness("stability", [one])[0] == pytest.approx(spearmanr(first, second).statistic)
    run = one.runs[0]
    along = [spearmanr(run.validation_N, earlier).statistic for earlier in run.earlier]
    alone = replace(one, runs=(run,))
    assert goodness("stability", [alone])[0] == pytest.approx(np.mean(along))
    assert math.isnan(goodness("stability", [replace(one, runs=(replace(run, earlier=()),))])[0])


def test_consensus_compares_with_other_configurations_only() -> None:
    candidates = candidates_of(0, seeds=1)
    others = [one for one in candidates if one.configuration != "c0"]
    expected = np.mean([spearmanr(candidates[0].runs[0].test_N, one.runs[0].test_N).statistic for one in others])
    assert goodness("consensus", candidates)[0] == pytest.approx(expected)
    assert np.isnan(goodness("consensus", candidates[:2])).all()


def test_an_ensemble_averages_ranks_of_one_reading_of_each_of_the_first() -> None:
    candidates = candidates_of(0)
    used = members([one.configuration for one in candidates], goodness("ensemble", candidates))
    assert [candidates[index].configuration for index in used] == ["c3", "c2", "c1", "c0"]
    assert members([f"x{number}" for number in range(9)], np.arange(9.0)) == [8, 7, 6, 5, 4][:TOP]
    run = candidates[0].runs[0]
    both = np.sort(np.concatenate((run.validation_N, run.pseudo_N)))
    ranks = normalised_rank(both, knots(run.validation_N, run.pseudo_N))
    assert ranks == pytest.approx(np.linspace(0, 1, len(both)), abs=0.02)
    assert np.diff(normalised_rank(both[-1] + np.arange(3.0), knots(run.validation_N, run.pseudo_N))).min() > 0
    together = blended([run, candidates[1].runs[0]])
    assert together.validation_N.mean() == pytest.approx(1)
    assert blended([run]).auroc == pytest.approx(run.auroc)


def test_the_gap_names_what_each_criterion_chooses_and_what_that_is_worth() -> None:
    tasks = {number: candidates_of(number) for number in range(3)}
    gaps = selection_gaps(tasks, ALIKE, per_task=False)
    aurocs = np.array([[one.auroc for one in candidates] for candidates in tasks.values()])
    names = [one.name for one in tasks[0]]
    oracle, found = (gap(name, "everything", gaps) for name in ("oracle", "val_error"))
    assert oracle.chosen == (names[int(aurocs.mean(0).argmax())],)
    assert oracle.share.value == pytest.approx(1)
    assert oracle.correlation == pytest.approx(1)
    assert found.chosen == ("c3 max",)
    assert found.auroc.value == pytest.approx(aurocs[:, 7].mean())
    assert found.default == pytest.approx(aurocs[:, 0].mean())
    assert found.median == pytest.approx(np.median(aurocs, axis=1).mean())
    assert found.random == pytest.approx(aurocs.mean())
    assert found.lost.value == pytest.approx(oracle.auroc.value - found.auroc.value)
    assert found.share.value == pytest.approx(
        (found.auroc.value - found.default) / (oracle.auroc.value - found.default)
    )
    assert (found.tasks, found.candidates) == (3, 8)
    assert found.auroc.low <= found.auroc.value <= found.auroc.high <= 1
    alone = {scope: gap("val_error", scope, gaps) for scope in ("detector", "settings", "aggregation")}
    assert alone["detector"].chosen == ("c1 avg",)
    # Within d0 c2 instead of c0, within d1 c3 instead of c1.
    assert alone["settings"].auroc.value == pytest.approx(aurocs[:, [4, 6]].mean())
    assert alone["settings"].default == pytest.approx(aurocs[:, [0, 2]].mean())
    assert alone["aggregation"].auroc.value == pytest.approx(aurocs[:, 1::2].mean())
    assert alone["aggregation"].default == pytest.approx(aurocs[:, ::2].mean())


def test_a_choice_for_each_task_is_held_against_the_best_of_each() -> None:
    tasks = {number: candidates_of(number) for number in range(3)}
    aurocs = np.array([[one.auroc for one in candidates] for candidates in tasks.values()])
    best = gap("oracle", "everything", selection_gaps(tasks, ALIKE, per_task=True))
    assert best.auroc.value == pytest.approx(aurocs.max(1).mean())
    assert best.lost.value == pytest.approx(0)


def test_tasks_with_other_candidates_are_refused_and_readings_that_may_not_win_are_not_chosen() -> None:
    first, second = candidates_of(0), candidates_of(1)
    with pytest.raises(ValueError, match="same candidates"):
        selection_gaps({0: first, 1: second[1:]}, ALIKE, per_task=False)
    barred = [replace(one, may_win=one.own) for one in first]
    gaps = selection_gaps({0: barred}, ALIKE, per_task=False, names=["val_error"])
    assert gap("val_error", "everything", gaps).chosen == ("c3 avg",)
    assert gap("val_error", "aggregation", gaps).candidates == 8


def planted(candidates: Sequence[Candidate], *, labels: bool, images: bool) -> list[Candidate]:
    """The candidates with wrong test labels, or with scores of garbage for test images."""
    generator = np.random.default_rng(9)
    return [
        replace(
            one,
            runs=tuple(
                replace(
                    run,
                    labels_N=~run.labels_N if labels else run.labels_N,
                    test_N=1e6 * generator.normal(size=50) if images else run.test_N,
                )
                for run in one.runs
            ),
        )
        for one in candidates
    ]


@pytest.mark.parametrize("name", LABEL_FREE)
def test_wrong_labels_and_garbage_for_test_images_change_no_choice_without_labels(name: str) -> None:
    criterion: type[Criterion] = CRITERIA[name]
    clean = candidates_of(0)
    assert np.array_equal(goodness(name, clean), goodness(name, planted(clean, labels=True, images=False)))
    garbage = goodness(name, planted(clean, labels=True, images=True))
    assert np.array_equal(goodness(name, clean), garbage) == (not criterion.transductive)


def test_without_labels_the_gap_says_what_is_chosen_and_how_far_criteria_agree() -> None:
    unlabelled = [
        replace(one, runs=tuple(replace(run, labels_N=np.zeros(50, dtype=bool)) for run in one.runs))
        for one in candidates_of(0)
    ]
    gaps = selection_gaps({0: unlabelled}, ALIKE, per_task=False)
    assert "oracle" not in {one.criterion for one in gaps}
    found = gap("pseudo_anomalies", "everything", gaps)
    assert found.chosen
    assert math.isnan(found.auroc.value)
    assert found.agreement == pytest.approx(
        np.mean(
            [
                spearmanr(goodness("pseudo_anomalies", unlabelled), goodness(other, unlabelled)).statistic
                for other in LABEL_FREE
                if other not in ("pseudo_anomalies", "ensemble")
            ]
        )
    )


def test_families_of_kinds_count_alike_however_many_kinds_they_have() -> None:
    by_kind = {"cut_paste": 1.0, "local_noise": 1.0, "scar": 0.7, "mixup": 0.2}
    value = CRITERIA["pseudo_anomalies"].of_kinds(by_kind, kind_weights())  # type: ignore[attr-defined]
    assert value == pytest.approx((0.9 + 0.2) / 2)
