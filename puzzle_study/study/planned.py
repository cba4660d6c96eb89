"""A configuration of a plan, with its trials."""

from __future__ import annotations

from dataclasses import dataclass, field

from puzzle_study import config
from puzzle_study.config import Reading
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.study import space
from puzzle_study.trials.spec import TrialSpec, configuration_name
from puzzle_study.trials.worth import Worth


@dataclass
class Planned:
    """A configuration with its trials, one for each task and seed.

    Attributes:
        number: its place in the order of choosing; the detectors' own, unchanged settings (``default``) come first.
        training: the place of its trainings in that order; those that are read along one training share it.
        values: of the search axes.
        suggestions: the search's suggestions that receive its worth.
        released: how many of the trials are queued; the others wait for the race.
        rival: the configuration that it races against, with its best reading; None: it does not race.
        given_up: why it gets no further trials; empty if it gets them all.
        needed: how many of the trials decide its worth; no later one is started.
        estimate: its worth if the race gave it up, from its differences to the rival.
        worth: under every reading, once all trials are finished.
    """

    number: int
    training: int
    default: bool
    values: space.Values
    settings: config.Settings
    trials: tuple[TrialSpec, ...]
    suggestions: list[space.Suggestion] = field(default_factory=list)
    released: int = 0
    rival: tuple[Planned, Reading] | None = None
    given_up: str = ""
    needed: int = field(init=False)
    estimate: dict[Reading, Worth] | None = None
    worth: dict[Reading, Worth] | None = None

    def __post_init__(self) -> None:
        self.needed = len(self.trials)

    @property
    def configuration(self) -> str:
        return self.trials[0].configuration

    @property
    def name(self) -> str:
        """What people call it."""
        return configuration_name(self.number, self.configuration)

    @property
    def titled(self) -> str:
        """Its name after its detector's."""
        return f"{DETECTORS[self.settings.detector].title}, {self.name}"

    @property
    def never(self) -> tuple[TrialSpec, ...]:
        """The trials that will not be started."""
        return self.trials[self.needed :]


Best = tuple[Planned, Reading, Worth]
"""A complete configuration, with its best reading and worth."""
