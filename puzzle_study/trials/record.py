"""The record of a trial: the truth that every later room reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from puzzle_study.config.types import Reading
from puzzle_study.errors import UserError
from puzzle_study.results import RECORD_FORMAT, Results
from puzzle_study.trials.spec import TrialSpec

Status = Literal["finished", "failed", "stopped"]
Metrics = Mapping[str, float | bool | int | None]


@dataclass(frozen=True)
class Record:
    """What is known of a trial that has ended.

    Attributes:
        spec: the trial.
        status: ``finished``; ``failed``; ``stopped`` by a rule or a race.
        error: why it failed or was stopped, as a sentence.
        seconds: wall time over all processes that worked on it.
        measured: plain columns of a finished trial, such as ``epochs``, ``train_seconds`` and ``n_test``.
        metrics: by error norm and aggregation: test metrics and criteria.
        history: columns along the training, by name; values that an epoch does not have are None.
        stopping: the rule that stopped it, and the criterion that it had reached.
        user_error: why it failed, if the user can mend that.
    """

    spec: TrialSpec
    status: Status
    error: str = ""
    seconds: float = 0.0
    measured: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Metrics]] = field(default_factory=dict)
    history: Mapping[str, list[float | None]] = field(default_factory=dict)
    stopping: Mapping[str, Any] = field(default_factory=dict)
    user_error: str = ""

    @property
    def finished(self) -> bool:
        """Whether it has numbers."""
        return self.status == "finished"

    @property
    def worked(self) -> bool:
        """Whether it did not fail."""
        return self.status != "failed"

    @property
    def tested(self) -> tuple[int, int]:
        """Test images of a finished trial, and anomalies among them."""
        return self.measured["n_test"], self.measured["n_anomalies"]

    def read(self, reading: Reading) -> Metrics:
        """Return the metrics under a reading of the error matrices."""
        return self.metrics[reading.error][reading.aggregation]

    def value(self, reading: Reading, column: str) -> float | None:
        """Return a column of a finished trial, of the reading or of the trial itself; None if there is none."""
        of_reading = self.read(reading)
        found = of_reading[column] if column in of_reading else self.column(column)
        return None if found is None else float(found)

    def column(self, name: str) -> Any:
        return self.seconds if name == "seconds" else self.measured.get(name)

    def to_json(self) -> dict[str, Any]:
        content = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.name != "spec"}
        spec = self.spec
        names = {"format": RECORD_FORMAT, "trial": spec.key, "configuration": spec.configuration}
        return names | spec.to_json() | content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Record:
        """Return the record that :meth:`to_json` described.

        Raises:
            UserError: its detector is not installed.
            KeyError, TypeError, ValueError: it is not a record of this version.
        """
        names = [entry.name for entry in dataclasses.fields(Record) if entry.name != "spec"]
        return Record(spec=TrialSpec.from_json(content), **{name: content[name] for name in names})


def read_record(results: Results, trial: str) -> Record | None:
    """Return a trial's record, or None if there is none that can be read whole: what is damaged counts as not done."""
    content = results.record(trial)
    return None if content is None else _parsed(content)


def records(results: Results) -> list[Record]:
    """Return every trial's record that can be read whole, those of earlier study files among them."""
    return [record for content in results.records() if (record := _parsed(content)) is not None]


def _parsed(content: Mapping[str, Any]) -> Record | None:
    try:
        return Record.from_json(content)
    except (KeyError, TypeError, ValueError, UserError):
        return None
