"""Which configurations one training answers: those that differ only in axes met along it (`DetectorSettings.along`).

A pure function of the study file: only axes with listed values count, and only if no other axis depends on them.
Racing, stopping rules and loggers follow every trial by itself; with any of them each configuration is trained alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from statistics import fmean
from typing import Any

from puzzle_study import config
from puzzle_study.config.axes import Values, chosen_values, combinations, ordered_axes, setting_of
from puzzle_study.config.read import StudyFile


class Along:
    """The axes of a study that are met along trainings.

    Attributes:
        axes: their names, each with the detector's own name.
    """

    def __init__(self, file: StudyFile) -> None:
        self._file, search = file, file.study.search
        apart = search is None or search.racing or search.stopping or file.study.loggers
        self.axes = {} if search is None or apart else dict(_met(file, search))
        self._ordered = ordered_axes(search) if search is not None and self.axes else []

    def of(self, settings: config.Settings) -> dict[str, str]:
        """Return the axes that a configuration's training meets, each with the detector's own name."""
        if not self.axes:
            return {}
        met = settings.own.along()
        return {name: self.axes[name] for name in self._searched(settings) if self.axes.get(name) in met}

    def others(self, values: Values, settings: config.Settings) -> Iterator[Values]:
        """Yield the values of the configurations that a configuration's training answers besides its own."""
        met = self._listed(settings)
        own = tuple(setting_of(settings, name) for name in met)
        for found in itertools.product(*met.values()):
            if found != own:
                yield values | dict(zip(met, found, strict=True))

    def trained(self, values: Values) -> Values:
        """Return the values that a training of these values depends on."""
        met = self.of(self._file.configuration(values)) if self.axes else {}
        return {name: value for name, value in values.items() if name not in met}

    def usual(self) -> int:
        """Return how many configurations a training answers, in the mean over the detectors' own settings."""
        own = [self._file.study.settings(detector) for detector in self._file.form.names]
        return round(fmean(math.prod(map(len, self._listed(settings).values())) for settings in own))

    def _listed(self, settings: config.Settings) -> dict[str, tuple[Any, ...]]:
        """Return the values of the axes that a configuration's training meets."""
        met = self.of(settings)
        return {name: axis.values for name, axis in self._ordered if name in met}

    def _searched(self, settings: config.Settings) -> Values:
        """Return a configuration's values of the axes whose conditions hold for it."""
        return chosen_values(self._ordered, self._file, lambda name, _: setting_of(settings, name))


def _met(file: StudyFile, search: config.Search) -> Iterator[tuple[str, str]]:
    """Yield the axes that some configuration's training meets."""
    conditions = {name for axis in search.space.values() for name in axis.when or {}}
    for name, axis in search.space.items():
        detector = file.form.detector_of(name)
        if detector is None or name in conditions or axis.kind not in ("choice", "grid"):
            continue
        kind, prefix = file.form.settings_class(detector), file.form.prefix(detector)
        own = name.removeprefix(prefix)
        if own not in kind.ALONG:
            continue
        deciding = [f"{prefix}{other}" for other in kind.INERT_BY.get(own.rpartition(".")[0], ())]
        points = (values for values in combinations(file, [name, *deciding]) or () if name in values)
        if any(own in file.configuration(values).own.along() for values in points):
            yield name, own
