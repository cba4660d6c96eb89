"""A finished study for the report: its tables and values computed from them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from puzzle_study import config
from puzzle_study.config.axes import setting_of
from puzzle_study.config.types import parted
from puzzle_study.criteria.registry import CRITERIA
from puzzle_study.detectors.registry import DETECTORS
from puzzle_study.inference.calibration import flagged_shares
from puzzle_study.reporting import scores
from puzzle_study.reporting.choice import AGGREGATIONS, Choice
from puzzle_study.reporting.paper_values import MAIN, Conditions, fraction_of_budget
from puzzle_study.reporting.values import TRIAL_KEY, natural
from puzzle_study.statistics import delong, intervals, metrics
from puzzle_study.statistics.intervals import Mean
from puzzle_study.trials.spec import configuration_name
from puzzle_study.trials.worth import SHARES, criterion, lacking, objectives, summary_column

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from puzzle_study.criteria.base import Criterion
    from puzzle_study.results import Results

Answer = TypeVar("Answer")
Asked = ParamSpec("Asked")


def remembered(
    method: Callable[Concatenate[StudyData, Asked], Answer],
) -> Callable[Concatenate[StudyData, Asked], Answer]:
    """Cache the results of a method, because ten sections ask for the same numbers."""

    @wraps(method)
    def answered(self: StudyData, /, *args: Asked.args, **named: Asked.kwargs) -> Answer:
        key = (method.__name__, args, tuple(named.items()))
        if key not in self.memory:
            self.memory[key] = method(self, *args, **named)
        answer: Answer = self.memory[key]
        return answer

    return answered


@dataclass(frozen=True, eq=False)
class StudyData:
    """All files of one study, read once.

    ``gaps`` (selection.csv), ``epochs``, ``attacks``, ``aggregation_matrix``, ``transfer``, ``smallest`` (ε of each
    image), ``certified``, ``corruptions`` and ``gallery`` are None if the study has none. Tables of attacks and
    corruptions include each task's repeat.
    """

    results: Results
    study: config.Study | None
    environment: dict[str, Any]
    trials: pd.DataFrame
    summary: pd.DataFrame
    gaps: pd.DataFrame | None
    epochs: pd.DataFrame | None
    attacks: pd.DataFrame | None
    aggregation_matrix: pd.DataFrame | None
    transfer: pd.DataFrame | None
    smallest: pd.DataFrame | None
    certified: pd.DataFrame | None
    corruptions: pd.DataFrame | None
    gallery: dict[str, NDArray[Any]] | None
    memory: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Name of the study, or of its folder if study.yaml is missing."""
        return self.study.name if self.study else self.results.root.resolve().name

    @cached_property
    def finished(self) -> pd.DataFrame:
        """Trials that have numbers."""
        return self.trials[self.trials["status"] == "finished"]

    @cached_property
    def failed(self) -> pd.DataFrame:
        """Trials that failed, without those that a race or a stopping rule gave up."""
        return self.trials[self.trials["status"] == "failed"]

    @cached_property
    def axes(self) -> list[str]:
        """Searched settings, by dotted name, without aggregation and error norm, which need no training."""
        return [name for name in self.trials.columns if "." in name or name in ("variant", "preset")]

    @cached_property
    def references(self) -> list[Choice]:
        """References that finished at least one trial, in the order of the study."""
        names = self.finished[self.finished["role"] == "reference"]["detector"].unique()
        rows = self.summary[self.summary["role"] == "reference"]
        return [self.choice(rows[rows["detector"] == name].iloc[0]) for name in names]

    @property
    def classes(self) -> list[str]:
        """Normal classes in natural order."""
        return sorted(self.trials["normal_class"].dropna().unique(), key=natural)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        if self.study:
            return self.study.data.name
        names = self.trials["dataset"].dropna().unique()
        return str(names[0]) if len(names) else ""

    @property
    def selection(self) -> str:
        """Name of the criterion that the winner was chosen by."""
        named = self.summary["selection"].dropna() if "selection" in self.summary else pd.Series(dtype=str)
        if len(named):
            return str(named.iloc[0])
        return self.study.selection if self.study else CRITERIA.default

    @property
    def selection_title(self) -> str:
        """The selection as written in sentences; a search may rank by its own objective."""
        return self.criterion.title

    @property
    def criterion(self) -> type[Criterion]:
        """The criterion that the winner was chosen by."""
        return CRITERIA[self.selection]

    @property
    def per_task(self) -> bool:
        """Whether each task has a winner of its own."""
        return self.study is not None and self.study.choose == "per_task"

    @property
    def ranks_by_selection(self) -> bool:
        """Whether the winner is best in the selection's own criterion instead of another objective of the search."""
        return self.objective_column(self.objectives[0]) == "selection_mean"

    @property
    def selected_by(self) -> str:
        """The criterion that chose the winner, as written in sentences."""
        if self.ranks_by_selection:
            return self.selection_title
        first = self.objectives[0]
        return f"objective {first}" + (" (oracle)" if first in config.NEED_TEST_LABELS else "")

    @property
    def objectives(self) -> tuple[str, ...]:
        """The columns by which configurations are compared; the first one ranks."""
        return objectives(self.study) if self.study else (criterion(self.selection),)

    def objective_column(self, name: str) -> str:
        """Return the summary column with an objective's mean."""
        return summary_column(name, self.selection)

    @cached_property
    def searches_error(self) -> bool:
        """Whether the error norm differs between rows of the summary."""
        return "error" in self.summary and len(self.configurations["error"].unique()) > 1

    @cached_property
    def configurations(self) -> pd.DataFrame:
        """Summary rows of the detectors that are compared and may win."""
        return self.summary[self.summary["role"] == "configuration"]

    @property
    def ranked(self) -> pd.DataFrame:
        """Those that may be selected, best first."""
        return self.configurations.dropna(subset=["rank"]).sort_values("rank")

    @cached_property
    def complete(self) -> pd.DataFrame:
        """Those whose trials all finished."""
        return self.configurations[self.configurations["complete"]]

    @property
    def compares_detectors(self) -> bool:
        """Whether the configurations have several detectors."""
        return len(self.configurations["detector"].unique()) > 1

    @property
    def searched(self) -> bool:
        """Whether there is more than one configuration."""
        return len(self.configurations["configuration"].unique()) > 1

    @cached_property
    def winner(self) -> Choice | None:
        """The selected row: by label, otherwise the first by rank, otherwise none."""
        labelled = self.configurations["label"].str.contains("winner")
        ranked = self.ranked
        ranked = ranked[ranked["label"].str.contains("winner")] if labelled.any() else ranked
        return self.choice(ranked.iloc[0]) if len(ranked) else None

    @cached_property
    def default(self) -> Choice | None:
        """The study's own settings, with their aggregation and error norm."""
        rows = self.configurations
        rows = rows[rows["label"].str.contains("default")]
        if self.study:
            reading = self.study.settings().own.reading
            own = {"detector": self.study.first, "aggregation": reading.aggregation, "error": reading.error}
            for name, value in own.items():
                if name in rows and (rows[name] == value).any():
                    rows = rows[rows[name] == value]
        return self.choice(rows.iloc[0]) if len(rows) else None

    @property
    def described(self) -> Choice | None:
        """The row that is described in detail: the winner, or the default if one of its trials finished."""
        choice = self.winner or self.default
        return choice if choice and len(self.of(choice)) else None

    @cached_property
    def best_in_hindsight(self) -> Choice | None:
        """The selectable row with the highest test AUROC, only for comparison with the selection."""
        rows = self.complete.dropna(subset=["auroc_mean", "rank"])
        return self.choice(rows.iloc[int(rows["auroc_mean"].argmax())]) if len(rows) else None

    def choice(self, row: pd.Series[Any]) -> Choice:
        """Return the choice of a summary row."""
        return Choice(
            str(row["configuration"]),
            str(row["detector"]),
            row["aggregation"] if parted(str(row["aggregation"]))[0] in AGGREGATIONS else "avg",
            str(row.get("error", "mse")),
            row["role"] == "reference",
        )

    def read_by(self, configuration: str, aggregation: str, error: str) -> Choice:
        """Return a configuration under a reading."""
        return Choice(configuration, self._detectors[configuration], aggregation, error)

    @cached_property
    def _detectors(self) -> dict[str, str]:
        """Each configuration's detector."""
        rows = self.configurations.drop_duplicates("configuration")
        return dict(zip(rows["configuration"].astype(str), rows["detector"].astype(str), strict=True))

    def called(self, choice: Choice | str) -> str:
        """Return what people call a configuration; a reference is called after its detector."""
        if isinstance(choice, Choice) and choice.is_reference:
            return choice.title
        configuration = choice.configuration if isinstance(choice, Choice) else choice
        number = self._numbers.get(configuration)
        return configuration if number is None else configuration_name(number, configuration)

    def titled(self, choice: Choice, kind: str = "") -> str:
        """Return a configuration's name, after its detector's if the study compares several; ``kind`` between."""
        of = f"{choice.title}, " if self.compares_detectors and not choice.is_reference else ""
        return f"{of}{kind}{self.called(choice)}"

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Each configuration's number in the order of choosing."""
        if "number" not in self.configurations:
            return {}
        rows = self.configurations.dropna(subset=["number"])
        return {str(name): int(number) for name, number in zip(rows["configuration"], rows["number"], strict=True)}

    @remembered
    def of(self, choice: Choice) -> pd.DataFrame:
        """Return the finished trials of a choice, in the order of task and seed."""
        rows: pd.DataFrame = self._ordered.iloc[self._places.get(choice.configuration, slice(0))]
        return rows

    @cached_property
    def _ordered(self) -> pd.DataFrame:
        """Finished trials by configuration, each configuration's in the order of task and seed."""
        rows = self.finished.drop_duplicates(["configuration", "trial"])
        keys = rows[["configuration", *TRIAL_KEY]].itertuples(index=False, name=None)
        ranks = [(row[0], row[1], natural(row[2]), *row[3:]) for row in keys]
        ordered: pd.DataFrame = rows.iloc[sorted(range(len(ranks)), key=ranks.__getitem__)]
        return ordered

    @cached_property
    def _tasks(self) -> pd.MultiIndex:
        """Task and seed of each of the ordered trials."""
        return pd.MultiIndex.from_frame(self._ordered[TRIAL_KEY])

    @cached_property
    def _keys(self) -> list[tuple[Hashable, ...]]:
        return list(self._tasks)

    def keys(self, choice: Choice) -> list[tuple[Hashable, ...]]:
        """Return task and seed of each of a choice's finished trials."""
        return self._keys[self._places.get(choice.configuration, slice(0))]

    @cached_property
    def _places(self) -> dict[str, slice]:
        """Where each configuration's trials are among the ordered ones; thousands of searches would take minutes."""
        indices = self._ordered.groupby("configuration").indices
        return {str(name): slice(int(rows[0]), int(rows[-1]) + 1) for name, rows in indices.items()}

    def classes_of(self, choice: Choice) -> list[str]:
        """Return the normal classes of a choice's finished trials in natural order."""
        return sorted(self.of(choice)["normal_class"].unique(), key=natural)

    @remembered
    def metric(self, choice: Choice, metric: str = "auroc", suffix: str = "") -> pd.Series[float]:
        """Return a number per trial under a choice's aggregation and error norm, indexed by task and seed.

        ``metric`` is the first part of a column of trials.csv, such as ``auroc`` or ``last20``, and ``suffix`` its last
        part, such as ``_low``; or ``metric`` is a whole column without a reading, such as ``val_error``.
        """
        numbers, place = self.numbers(choice, metric, suffix), self._places.get(choice.configuration, slice(0))
        return pd.Series(numbers, index=self._tasks[place]).dropna()

    def numbers(self, choice: Choice, metric: str = "auroc", suffix: str = "") -> NDArray[np.float64]:
        """Return the numbers of :meth:`metric` without their index (see :meth:`keys`), NaN for those that are missing.

        A section that asks for thousands of configurations is much faster with arrays.
        """
        place = self._places.get(choice.configuration)
        if place is None:
            # Without finished trials a table has no columns of metrics.
            return np.empty(0)
        if metric in self._ordered:
            # From the training, independent of the reading, such as val_error.
            return self._column(metric)[place]
        if choice.error == self.table_error(choice) and choice.aggregation in AGGREGATIONS:
            return self._column(f"{metric}_{choice.aggregation}{suffix}")[place]
        trials = self._ordered["trial"].iloc[place]
        found = [self._evaluated(str(trial), choice).get(f"{metric}{suffix}") for trial in trials]
        return np.array(found, dtype=np.float64)

    @remembered
    def _column(self, name: str) -> NDArray[np.float64]:
        """Return a column of the ordered trials; NaN for what is not a number."""
        return pd.to_numeric(self._ordered[name], errors="coerce").to_numpy(dtype=np.float64)

    def table_error(self, choice: Choice) -> str:
        """Return the error norm of a choice's rows in trials.csv and epochs.parquet: its detector's own."""
        return self._norms.get(choice.configuration, choice.error)

    @cached_property
    def _norms(self) -> dict[str, str]:
        """The error norm of each configuration's rows."""
        if "norm" not in self._ordered:
            return {}
        rows = self._ordered.dropna(subset=["norm"]).drop_duplicates("configuration")
        return dict(zip(rows["configuration"].astype(str), rows["norm"].astype(str), strict=True))

    @remembered
    def mean(self, choice: Choice, metric: str = "auroc") -> Mean | None:
        """Return the mean over classes and seeds with its interval, or None if no trial has the number."""
        number_N = self.numbers(choice, metric)
        (known,) = np.nonzero(~np.isnan(number_N))
        if not len(known):
            return None
        keys = self.keys(choice)
        strata = [keys[index][:-1] for index in known]
        if metric == "auroc":
            low_N, high_N = (self.numbers(choice, metric, end) for end in ("_low", "_high"))
            return intervals.auroc_interval(number_N[known], low_N[~np.isnan(low_N)], high_N[~np.isnan(high_N)], strata)
        bounds = (0, 1) if metric in SHARES else (-np.inf, np.inf)
        return intervals.mean_interval(number_N[known], strata, bounds=bounds)

    def lacking(self, rows: pd.DataFrame | None = None) -> str:
        """Return what trials' tests (None: all finished) lack for an AUROC, and in how many; empty if nothing."""
        rows = self.finished if rows is None else rows
        if not {"n_test", "n_anomalies"} <= set(rows.columns):
            return ""
        return lacking(list(rows[["n_test", "n_anomalies"]].astype(int).itertuples(index=False, name=None)))

    def label(self, choice: Choice) -> str:
        """Return a choice's name in sentences."""
        if choice.is_reference:
            return choice.title
        if self.winner and choice.configuration == self.winner.configuration:
            return "the winner"
        if self.default and choice.configuration == self.default.configuration:
            return "the default"
        return f"configuration {self.called(choice)}"

    def values_of(self, configuration: str) -> dict[str, Any]:
        """Return a configuration's values of the searched settings."""
        return self._values.get(configuration, {})

    @cached_property
    def _values(self) -> dict[str, dict[str, Any]]:
        """Values of the searched settings of each configuration."""
        first = self.trials.drop_duplicates("configuration")
        columns = [first[name] for name in self.axes]
        rows = zip(*columns, strict=True) if columns else ((),) * len(first)
        return {
            name: dict(zip(self.axes, row, strict=True)) for name, row in zip(first["configuration"], rows, strict=True)
        }

    def setting(self, choice: Choice, name: str) -> Any:
        """Return a configuration's setting: its searched value, or the study's own, or None."""
        values = self.values_of(choice.configuration)
        for searched in (name, f"{choice.detector}.{name}"):
            value = values.get(searched)
            if value is not None and not pd.isna(value):
                return value
        if self.study is None or choice.detector not in self.study.detectors:
            return None
        return setting_of(self.study.settings(choice.detector), name)

    def conditions(self, choice: Choice) -> Conditions:
        """Return a configuration's settings that select the paper's values."""
        most = self.setting(choice, "data.max_train_images")
        return Conditions(
            method=choice.title,
            variant=str(self.setting(choice, "variant") or MAIN.variant),
            grid=int(self.setting(choice, "puzzle.grid") or MAIN.grid),
            train_fraction=float(self.setting(choice, "data.train_fraction") or MAIN.train_fraction),
            max_train_images=None if most is None else int(most),
            # A column of true, false and empty cells may be read as text.
            grayscale=str(self.setting(choice, "data.grayscale")).lower() == "true",
        )

    def budget(self, choice: Choice) -> str:
        """Return what a configuration's training lacks of the paper's budget, or nothing."""
        if self.study is None or choice.detector not in DETECTORS:
            return ""
        settings = DETECTORS[choice.detector].Settings
        return fraction_of_budget(settings, self.dataset, lambda name: self.setting(choice, name))

    def paper_source(self, choice: Choice, source: str) -> str:
        """Return a column heading for a table of the paper, marked if the budget is smaller here."""
        return f"{source}; here at a fraction of the budget" if self.budget(choice) else source

    def paper_note(self, choice: Choice) -> str:
        """Return what the training lacks of the paper's budget, as a sentence with a space before it."""
        short = self.budget(choice)
        return f" This study is at a fraction of the paper's budget: {short}." if short else ""

    @remembered
    def _evaluated(self, trial: str, choice: Choice) -> dict[str, float | None]:
        """Evaluate a stored error matrix under a reading that trials.csv lacks."""
        scored = scores.test_scores(self, trial, choice)
        if scored is None:
            return {}
        evaluation = metrics.evaluate(scored.test, scored.labels)
        flagged = flagged_shares(scored.validation, scored.test, scored.labels)
        return {**(asdict(evaluation) if evaluation else {}), **flagged, "selection": scored.selection}

    @remembered
    def placed(self, trial: str, choice: Choice) -> delong.Placed | None:
        """Return a trial's AUROC with its images' shares of the error, or None without error matrices."""
        scored = scores.test_scores(self, trial, choice)
        return None if scored is None else delong.place(scored.test, scored.labels, scored.names)
