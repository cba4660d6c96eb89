"""The search of a study file: axes, algorithms, objectives, and when a configuration is given up."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from puzzle_study.config.types import MOST_SEED, Many, Scalar, Section

Objective = Literal[
    "selection",
    "robust_selection",
    "auroc",
    "robust_auroc",
    "average_precision",
    "fpr_at_tpr95",
    "fpr_at_tpr99",
    "fpr_at_tpr995",
    "val_error",
    "images_seen",
    "seconds",
    "train_seconds",
    "score_seconds",
]
NEED_TEST_LABELS = ("auroc", "robust_auroc", "average_precision", "fpr_at_tpr95", "fpr_at_tpr99", "fpr_at_tpr995")
LABEL_FREE = {"robust_auroc": "robust_selection"}


class Axis(Section):
    """One search axis: exactly one kind of range, and the condition under which the axis matters."""

    choice: Many[Scalar] | None = Field(None, min_length=1, description="One of these values.")
    grid: Many[Scalar] | None = Field(None, min_length=1, description="Each of these values (for `algorithm: grid`).")
    uniform: Many[float] | None = Field(None, min_length=2, max_length=2, description="From low to high, evenly.")
    log_uniform: Many[float] | None = Field(
        None, min_length=2, max_length=2, description="From low to high, evenly in the logarithm."
    )
    int_uniform: Many[int] | None = Field(None, min_length=2, max_length=2, description="Whole numbers, low to high.")
    when: dict[str, Many[Scalar]] | None = Field(
        None, description="Searched only where these settings have one of these values."
    )

    @property
    def kind(self) -> str:
        """Name of the one range that is given."""
        return next(name for name in AXIS_KINDS if getattr(self, name) is not None)

    @property
    def values(self) -> tuple[Any, ...]:
        """The listed values, or (low, high)."""
        return tuple(getattr(self, self.kind))

    @model_validator(mode="after")
    def _one_range(self) -> Axis:
        given = [name for name in AXIS_KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"an axis has exactly one of {', '.join(AXIS_KINDS)}, got {', '.join(given) or 'none'}")
        if given[0] in ("uniform", "log_uniform", "int_uniform"):
            low, high = self.values
            if not low < high:
                raise ValueError(f"{given[0]} wants low < high, got {low} and {high}")
            if given[0] == "log_uniform" and low <= 0:
                raise ValueError(f"log_uniform wants low > 0, got {low}")
        return self


AXIS_KINDS = ("choice", "grid", "uniform", "log_uniform", "int_uniform")


class Racing(Section):
    """Give up configurations that are worse than the best so far on the trials that both have."""

    p: float = Field(0.1, gt=0, lt=0.5, description="Level of the one-sided paired signed-rank test.")
    start: int = Field(4, ge=2, description="Trials of a configuration before the first test, repeated after each.")


class Stopping(Section):
    """Stop trials along their training, by `evaluate.selection`, compared among trials of one task."""

    rule: Literal["asha", "median"] = Field(
        "asha", description="Ray's asynchronous successive halving, or its median stopping rule."
    )
    grace_epochs: int = Field(10, ge=1, description="Epochs that every trial gets.")
    reduction: int = Field(3, ge=2, description="ASHA: one in so many trials goes on to the next rung.")


class Search(Section):
    """Which settings are searched, and how."""

    algorithm: Literal["optuna", "nsga2", "cmaes", "random", "grid"] = Field(
        "optuna",
        description="Optuna's TPE (of several objectives too), NSGA-II or CMA-ES (numeric axes only), Optuna's random "
        "sampler, or every combination of the axes' values.",
    )
    objectives: Many[Objective] | None = Field(
        None,
        min_length=1,
        description="Columns that are searched for, the first of which ranks; null: the selection criterion. Columns "
        "that use test labels want `selection: oracle`.",
    )
    racing: Racing | None = Field(None, description="Give up configurations that lose; left out: none.")
    stopping: Stopping | None = Field(None, description="Stop trials along their training; left out: none.")
    configurations: int | None = Field(
        None, ge=1, description="Trained configurations besides the default; null: 20 (for grid: every combination)."
    )
    lookahead: int = Field(
        4, ge=1, description="Configurations in flight: number i is asked for once i - lookahead has been told."
    )
    startup: int = Field(5, ge=1, description="Configurations that TPE draws at random before it models.")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="Seed of the search.")
    space: dict[str, Axis] = Field(min_length=1, description="Axes by the dotted name of the setting they vary.")

    @model_validator(mode="after")
    def _possible(self) -> Search:
        several = len(self.objectives or ()) > 1
        if len(set(self.objectives or ())) < len(self.objectives or ()):
            raise ValueError("objectives names a column twice")
        if several and self.algorithm == "cmaes":
            raise ValueError("cmaes follows one objective; use optuna or nsga2 for several")
        if self.algorithm == "cmaes" and all(axis.kind in ("choice", "grid") for axis in self.space.values()):
            raise ValueError("cmaes needs an axis of numbers: uniform, log_uniform or int_uniform")
        if several and (self.racing or self.stopping):
            raise ValueError("racing and stopping compare by one objective; name one, or leave them out")
        return self
