"""The time left, which falls while nothing happens; and lines on a pipe."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from puzzle_study.config import read
from puzzle_study.datasets import SplitSizes
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import Piece, StageProgress, TimeLeft, until_done
from puzzle_study.study.work import TrialsLeft, costs_of, planned_work, trial_work
from puzzle_study.trials.spec import TrialSpec
from tests.study.conftest import DIGITS, finished, plan_of

PIECES = st.lists(st.floats(0.0, 1e6), max_size=8)


def left_of(time_left: TimeLeft, now: float) -> float:
    found = time_left.seconds(now)
    assert found is not None
    return found


@given(PIECES, PIECES, st.integers(0, 3), st.floats(1e-3, 1e3), st.lists(st.floats(0.0, 1e5), min_size=2))
def test_the_time_left_does_not_rise_while_nothing_happens_nor_falls_faster_than_time(
    running: list[float], waiting: list[float], idle: int, pace: float, pauses: list[float]
) -> None:
    time_left, slots = TimeLeft(), max(1, len(running) + idle)
    time_left.worked(1.0, pace)
    now = 100.0
    time_left.remains(running=list(map(Piece, running)), waiting=list(map(Piece, waiting)), slots=slots, now=now)
    before = left_of(time_left, now)
    assert before == pytest.approx(pace * until_done(running, waiting, slots))
    for pause in pauses:
        now += pause
        after = left_of(time_left, now)
        assert before - pause - 1e-6 * before <= after <= before
        before = after
    assert before >= pace * until_done((), waiting, slots) * (1 - 1e-9), "nobody has begun those"


@given(PIECES, st.integers(1, 5))
def test_side_by_side_work_takes_between_its_share_and_its_share_with_the_longest_piece(
    pieces: list[float], slots: int
) -> None:
    share, longest = sum(pieces) / slots, max(pieces, default=0.0)
    assert max(share, longest) * (1 - 1e-9) <= until_done((), pieces, slots) <= (share + longest) * (1 + 1e-9)


def test_nothing_is_said_of_the_time_left_before_the_speed_is_known() -> None:
    time_left = TimeLeft()
    time_left.remains(running=[Piece(1.0)], waiting=[], slots=1, now=0.0)
    assert time_left.seconds(0.0) is None


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 10**6), st.floats(1e-3, 1e3)), min_size=1))
def test_an_estimate_waits_for_the_speed_of_half_the_work_and_then_stays(kinds: dict[str, tuple[int, float]]) -> None:
    """Each kind has its work and its seconds per work; they are measured one after another, while nothing is done."""
    time_left, known, shown = TimeLeft(), 0.0, False
    pieces = [Piece(work, kind) for kind, (work, _) in kinds.items()]
    total = sum(piece.work for piece in pieces)
    for work, kind in pieces:
        time_left.worked(1.0, kinds[kind][1], kind)
        time_left.remains(running=pieces[:1], waiting=pieces[1:], slots=1, now=0.0)
        known += work
        shown = shown or known >= total / 2
        assert (time_left.seconds(0.0) is not None) == shown
    assert left_of(time_left, 0.0) == pytest.approx(sum(work * pace for work, pace in kinds.values()))


def test_work_of_an_unknown_kind_is_taken_to_be_as_fast_as_all_so_far() -> None:
    time_left = TimeLeft()
    time_left.worked(30.0, 30.0, "slow")
    time_left.worked(10.0, 2.0, "fast")
    pieces = [Piece(10.0, "slow"), Piece(10.0, "fast"), Piece(20.0, "unknown")]
    time_left.remains(running=[], waiting=pieces, slots=1, now=0.0)
    assert left_of(time_left, 0.0) == pytest.approx(10.0 + 2.0 + 20.0 * 32 / 40)


STUDY = """
data: {name: digits, normal_classes: [3]}
train: {epochs: 50}
evaluate: {every: 50}
seeds: [0, 1]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two trainings of 50 epochs and four references."""
    return plan_of(tmp_path, STUDY)


def finish(plan: Plan, left: TrialsLeft, spec: TrialSpec, now: float) -> None:
    plan.done(spec.key, finished(spec))
    left.ended(spec.key, plan.records[spec.key], now)


def test_references_count_little_and_epochs_within_a_training_count(plan: Plan) -> None:
    """A second an epoch, as much for the scoring as the model says; each reference takes ten."""
    time_left = TimeLeft()
    left, now = TrialsLeft(plan, time_left), 0.0
    work = planned_work(plan.configurations[0].trials[0], plan.study.data)
    scoring = work.rest / work.epoch

    def take() -> TrialSpec:
        spec = plan.take()
        assert spec is not None
        left.started(spec.key, spec, now)
        return spec

    for reference in plan.references:
        assert take() == reference
        now += 10.0
        finish(plan, left, reference, now)
    assert time_left.seconds(now) is None, "references do not tell how fast trainings are"
    training = 50 + scoring
    spec = take()
    left.reported(spec.key, 1, now + 1.0)
    for epoch in (10, 20, 30):
        now += 10.0
        left.reported(spec.key, epoch, now)
        assert left_of(time_left, now) == pytest.approx(2 * training - epoch)
        assert left.epochs == [(epoch, 50)]
    now += 20.0 + scoring
    finish(plan, left, spec, now)
    assert left_of(time_left, now) == pytest.approx(training)
    spec = take()
    now += training
    finish(plan, left, spec, now)
    assert left_of(time_left, now) == 0.0
    assert left.epochs == []


def test_references_that_are_left_add_little(plan: Plan) -> None:
    time_left = TimeLeft()
    left = TrialsLeft(plan, time_left)
    *_, untrained = plan.references
    training = plan.configurations[0].trials[0]
    left.started("training", training, 0.0)
    left.reported("training", 1, 1.0)
    left.reported("training", 2, 2.0)
    with_all = left_of(time_left, 2.0)
    for reference in plan.references:
        if reference != untrained:
            plan.done(reference.key, finished(reference))
    left.ended("one of an earlier run", None, 2.5)
    assert 0.99 * with_all < left_of(time_left, 2.5) < with_all


def test_small_trained_references_say_nothing_of_a_study_of_large_trainings(tmp_path: Path) -> None:
    """Each epoch takes a second, although that of the reference is a hundredth of the other's work."""
    plan, time_left = plan_of(tmp_path, STUDY + "references: [ae_l2]\n"), TimeLeft()
    left, now = TrialsLeft(plan, time_left), 0.0
    (reference,) = plan.references
    training = plan.configurations[0].trials[0]
    for spec in (reference, training):
        left.started(spec.key, spec, now)
        for epoch in (1, 11):
            now += 10.0
            left.reported(spec.key, epoch, now)
        if spec == reference:
            assert time_left.seconds(now) is None
            finish(plan, left, spec, now)
            assert time_left.seconds(now) is None
    work = planned_work(training, plan.study.data)
    assert left_of(time_left, now) == pytest.approx((work.after(11) + work.after(0)) / work.epoch)


def test_a_training_that_goes_on_is_not_taken_for_one_that_was_fast(plan: Plan) -> None:
    """40 epochs are of an earlier run; the 10 of this one take a second each."""
    time_left = TimeLeft()
    left = TrialsLeft(plan, time_left)
    spec = plan.configurations[0].trials[0]
    left.started(spec.key, spec, 0.0)
    left.reported(spec.key, 41, 5.0)
    assert time_left.seconds(5.0) is None
    left.reported(spec.key, 46, 10.0)
    assert left_of(time_left, 10.0) >= 4 + 50


def test_work_grows_with_images_epochs_puzzles_and_width(plan: Plan, tmp_path: Path) -> None:
    def work(images: SplitSizes, **assignments: object) -> float:
        file = read.load(
            tmp_path / "study.yaml",
            assignments=[f"{name.replace('__', '.')}={value}" for name, value in assignments.items()],
        )
        return after(TrialSpec(file.study.settings(), DIGITS[3], 0, ""), images)

    def after(spec: TrialSpec, images: SplitSizes) -> float:
        return trial_work(spec, images, costs_of(spec, images)).after(0)

    few = SplitSizes(train=1000, validation=100, normal=100, anomalous=900)
    base = work(few)
    assert work(SplitSizes(train=2000, validation=100, normal=100, anomalous=900)) > 1.5 * base
    assert work(few, train__epochs=100) > 1.5 * base
    assert work(few, score__permutations=1) < base
    assert work(few, model__base_channels=16) > 2 * base
    assert work(few, train__adversary__method="none") < base
    assert work(few, evaluate__robust="{}") > base
    assert work(few, evaluate__every=5) > base
    (reference, *_, untrained) = plan.references
    assert after(reference, few) < 0.01 * base
    assert after(untrained, few) == pytest.approx(work(few, train__epochs=0))


def test_a_pipe_is_given_a_line_when_there_was_none_for_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    said = StringIO()
    progress = StageProgress("trials", 3, console=Console(file=said, width=200))
    progress.follow([(1, 50)])
    for _ in range(1000):
        now += 0.1
        progress.tick()
    assert said.getvalue().splitlines() == ["trials 0/3 · epoch 1/50"] * 3
    progress.follow([])
    progress.advance()
    for _ in range(299):
        now += 0.1
        progress.tick()
    lines = said.getvalue().splitlines()
    assert lines[3:] == ["trials 1/3 · about 3 min 20 s left"], "and half a minute after that line"


def test_no_line_is_printed_beside_the_live_one_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    said = StringIO()
    progress = StageProgress("trials", 3, console=Console(file=said, width=200, force_terminal=True))
    now = 100.0
    progress.tick()
    assert said.getvalue() == ""
