"""Several trials by one training: those that differ only in what is met along it (``DetectorSettings.along``).

The training is that of the trial with most epochs. A trial that ends earlier is scored, saved and recorded when the
training reaches its end, by a detector of its own that is resumed from the state of that moment, as if it came from
its own last checkpoint. Then the training goes on.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from puzzle_study.detectors import checkpoint
from puzzle_study.detectors.base import Run
from puzzle_study.trials.following import EARLIER, log_epoch
from puzzle_study.trials.log import trial_log
from puzzle_study.trials.run import Trial
from puzzle_study.trials.spec import TrialSpec

log = logging.getLogger(__name__)

Ended = Callable[[Trial], None]


def in_order(specs: Sequence[TrialSpec]) -> list[TrialSpec]:
    """Return specifications with one stem as their training meets them; the last one is trained."""
    return sorted(specs, key=_epochs)


def run_along(trials: Sequence[Trial], ended: Ended) -> None:
    """Run trials with one stem, from its last checkpoint if there is one, and write their records.

    A trial that fails at its end harms no other; one that diverges ends those that need more epochs.

    Args:
        trials: whose specifications have equal stems.
        ended: is told each trial that has its record.
    """
    by_key = {trial.spec.key: trial for trial in trials}
    left = [by_key[spec.key] for spec in in_order([trial.spec for trial in trials])]
    while left:
        training = _Training(left, ended)
        training.run()
        left = training.passed


def _epochs(spec: TrialSpec) -> int:
    return spec.settings.own.epochs_wanted


def _raise(error: Exception) -> None:
    """Raise an exception; a function, because a context that may swallow it is unknown to mypy."""
    raise error


class _Training:
    """One training, and the trials without a record that it answers, in the order of their ends.

    ``passed`` are those of which the checkpoint that it goes on from knows nothing any more.
    """

    def __init__(self, trials: Sequence[Trial], ended: Ended) -> None:
        last = trials[-1]
        self.trained, self._ended = last, ended
        self._folder = last.results.checkpoints(last.spec.stem)
        self._content = checkpoint.load_newest(self._folder)
        if self._content is not None and not any(_follows(trial.spec, self._content) for trial in trials):
            shutil.rmtree(self._folder)
            self._content = None
        self.open = [trial for trial in trials if self._content is None or _follows(trial.spec, self._content)]
        self.passed = [trial for trial in trials if trial not in self.open]
        self._keeper = checkpoint.Keeper(self._folder)
        self._trains, self.ways = True, list[_Way]()

    def run(self) -> None:
        """Train to the end of the last trial; each has its record afterwards."""
        self._tell(self.open)
        trained = self.trained
        with self._keeper, trial_log(trained.results.log_file(trained.spec.key), lambda: self._trains):
            try:
                self._begin()
                self._fit()
            except Exception as error:
                self._fail(error)

    def _tell(self, trials: Sequence[Trial]) -> None:
        """Say in every other log which one tells of the epochs."""
        for trial in trials:
            if trial is not self.trained:
                with trial_log(trial.results.log_file(trial.spec.key)):
                    log.info("trained along with trial %s, whose log has the epochs", self.trained.spec.key)

    def _begin(self) -> None:
        """Build a detector for each way, and end the trials whose last epoch is done already."""
        for name in dict.fromkeys(trial.spec.way for trial in self.open):
            self.ways.append(_Way(self, [trial for trial in self.open if trial.spec.way == name]))
        if self._content is not None:
            log.info("going on after epoch %d", self._content["epochs"])
            for way in self.ways:
                way.restore(self._content["ways"][way.name])
            self._end_at(self._content["epochs"], last=False)

    def _fit(self) -> None:
        """Fit the detectors that are still open; the rest ends where a training has converged before."""
        ways = self.ways = [way for way in self.ways if way.open]
        if ways:
            type(ways[0].detector).fit_along([way.detector for way in ways], ways[0].images_NCHW, ways)
            self._end_at(ways[0].epochs, last=True)

    def followed(self, row: dict[str, float], *, last: bool) -> None:
        """Keep an epoch that every way has followed, and end the trials that end with it."""
        epochs = self.ways[0].epochs
        ways = {way.name: way.content() for way in self.ways if way.open}
        ends = last or any(way.ends_at(epochs) for way in self.ways)
        self._keeper.keep(epochs, {"epochs": epochs, "ways": ways}, last=ends)
        log_epoch(row)
        if self.trained.on_epoch is not None:
            self.trained.on_epoch(row)
        self._end_at(epochs, last=last)
        for way in self.ways:
            way.go_on()

    def _end_at(self, epochs: int, *, last: bool) -> None:
        """End the trials that need no more epochs, the trained one last: the checkpoint is in its folder."""
        for trial in [trial for trial in self.open if last or _epochs(trial.spec) == epochs]:
            with self.turn(None):
                self._end(next(way for way in self.ways if trial in way.open), trial)

    def _end(self, way: _Way, trial: Trial) -> None:
        """Score a trial, write its files and its record."""
        self._trains = False
        way.open.remove(trial)
        self.open.remove(trial)
        with trial.working():
            trial.begin(handed=way.handed())
            trial.fit()
            trial.finish()
        trial.release()
        self._trains = True
        self._recorded(trial)

    def _fail(self, error: Exception) -> None:
        """End the open trials with what the training raised, if it is a failure of theirs."""
        self._trains = False
        if not self.open:
            raise error
        for trial in list(self.open):
            with trial.working():
                _raise(error)
            self.open.remove(trial)
            self._recorded(trial)

    def _recorded(self, trial: Trial) -> None:
        """Tell that a trial has its record; after the last one nothing goes on from the checkpoint."""
        if not self.open:
            self._keeper.close(failed=False)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._ended(trial)

    @contextlib.contextmanager
    def turn(self, way: _Way | None) -> Iterator[None]:
        """Count the time inside for one way, or for none."""
        for one in self.ways:
            one.clock.take(1.0 if one is way else 0.0)
        try:
            yield
        finally:
            for one in self.ways:
                one.clock.take(1.0)


class _Way(Run):
    """A detector along the training, and what is known of its epochs; the trials that it answers are prefixes.

    What was measured after an epoch is kept by its number: a trial has what was due, and what its own end asked for.
    """

    def __init__(self, training: _Training, trials: Sequence[Trial]) -> None:
        self._training, self.open, self.name = training, list(trials), trials[0].spec.way
        longest = trials[-1]
        longest.begin()
        self.detector, self.images_NCHW, self.clock = longest.detector, longest.train, longest.clock
        self._following, self._every = longest.following, longest.spec.settings.evaluate.every
        for trial in trials:
            trial.clock = self.clock  # of a trial that fails before its end
        self._rows: list[dict[str, float]] = []
        self._measured: dict[int, dict[str, Any]] = {}
        self._state: Callable[[], dict[str, Any]] | None = None
        self._train_seconds = self._since = 0.0

    @property
    def epochs(self) -> int:
        return len(self._rows)

    def ends_at(self, epochs: int) -> bool:
        return any(_epochs(trial.spec) == epochs for trial in self.open)

    def resumed(self) -> dict[str, Any] | None:
        """Return the state that the training goes on from."""
        self.go_on()
        return None if self._state is None else self._state()

    def go_on(self) -> None:
        self._since = self.clock.now()

    def images(self, images_NCHW: Tensor, epoch: int) -> Tensor:
        """Return the images of an epoch, augmented anew."""
        return self._following.images(images_NCHW, epoch)

    def epoch(self, row: dict[str, float], state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        """Measure what one of the trials asks for after this epoch, once for all."""
        self._train_seconds += self.clock.now() - self._since
        self._rows.append(row)
        self._state = state
        if self.open and (self._is_due(self.epochs) or last or self.ends_at(self.epochs)):
            with self._training.turn(self):
                self._measure()
        if self is self._training.ways[-1]:
            self._training.followed(row | self._measured.get(self.epochs, {}).get("values", {}), last=last)

    def _is_due(self, epoch: int) -> bool:
        return epoch % self._every == 0

    def _measure(self) -> None:
        started = self.clock.now()
        seen = self.detector.of_views(self._following.evaluate.views)
        values = self._following.followed.measure(seen)
        validation_VK = seen.validation_NK.cpu().clone()
        seconds = self.clock.now() - started
        self._measured[self.epochs] = {"values": values, "seconds": seconds, "validation": validation_VK}
        recent = {self.epochs, *[epoch for epoch in self._measured if self._is_due(epoch)][-EARLIER - 1 :]}
        for epoch, measured in self._measured.items():
            if epoch not in recent:
                measured.pop("validation", None)

    def content(self) -> dict[str, Any]:
        """Return what the checkpoint keeps."""
        assert self._state is not None
        return {
            "trained": self._state(),
            "rows": self._rows,
            "measured": self._measured,
            "train_seconds": self._train_seconds,
            "seconds": self.clock.seconds,
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go on from what :meth:`content` returned."""
        self._rows, self._measured = list(content["rows"]), dict(content["measured"])
        self._train_seconds, self.clock.earlier = content["train_seconds"], content["seconds"]
        self._state = lambda: dict(content["trained"])

    def handed(self) -> dict[str, Any]:
        """Return the last checkpoint that a trial which ends now would have by its own training."""
        assert self._state is not None
        own = [epoch for epoch in self._measured if self._is_due(epoch) or epoch == self.epochs]
        history = [
            row | (self._measured[epoch]["values"] if epoch in own else {}) for epoch, row in enumerate(self._rows, 1)
        ]
        return {
            "trained": self._state(),
            "history": history,
            "train_seconds": self._train_seconds,
            "evaluation_seconds": sum(self._measured[epoch]["seconds"] for epoch in own),
            "seconds": self.clock.seconds,
            "validations": [self._measured[epoch]["validation"] for epoch in own[-EARLIER - 1 :]],
        }


def _follows(spec: TrialSpec, content: Mapping[str, Any]) -> bool:
    """Whether a trial's training goes on from a checkpoint; at its own end it must have been measured."""
    way, epochs = content["ways"].get(spec.way), content["epochs"]
    return way is not None and (_epochs(spec) > epochs or (_epochs(spec) == epochs and epochs in way["measured"]))
