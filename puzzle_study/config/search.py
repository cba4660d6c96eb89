"""The search of a study file: axes, algorithms, objectives, and giving up configurations."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from puzzle_study.config.types import ConfigurationCount, Many, Scalar, Section, Seed, unit

Objective = Literal[
    "selection",
    "worst_kind",
    "robust_selection",
    "corrupted_selection",
    "corrupted_fpr",
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
    """One search axis: exactly one kind of range, and optionally the condition under which it is searched."""

    choice: Many[Scalar] | None = Field(None, min_length=1, description="One of these values.")
    grid: Many[Scalar] | None = Field(None, min_length=1, description="Each of these values (for `algorithm: grid`).")
    uniform: Many[float] | None = Field(None, min_length=2, max_length=2, description="Uniform between low and high.")
    log_uniform: Many[float] | None = Field(
        None, min_length=2, max_length=2, description="Log-uniform between low and high."
    )
    int_uniform: Many[int] | None = Field(
        None, min_length=2, max_length=2, description="Whole numbers between low and high, both included."
    )
    when: dict[str, Many[Scalar]] | None = Field(
        None, description="Search this axis only if these settings have one of these values."
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
                raise ValueError(f"{given[0]} needs low < high, got {low} and {high}")
            if given[0] == "log_uniform" and low <= 0:
                raise ValueError(f"log_uniform needs low > 0, got {low}")
        return self


AXIS_KINDS = ("choice", "grid", "uniform", "log_uniform", "int_uniform")


class Racing(Section):
    """Give up configurations that are worse than the best one on the trials that both have finished."""

    p: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        json_schema_extra=unit("–"),
        description="Significance level of the one-sided paired signed-rank test.",
    )
    start: int = Field(
        4,
        ge=2,
        json_schema_extra=unit("trials"),
        description="Trials of a configuration before its first test; it is tested again after each further trial.",
    )


class Stopping(Section):
    """Stop trials during training by the selection criterion, compared among trials of one task."""

    rule: Literal["asha", "median"] = Field(
        "asha", description="Ray's asynchronous successive halving, or its median stopping rule."
    )
    grace_epochs: int = Field(
        10, ge=1, json_schema_extra=unit("epochs"), description="Epochs before a trial may be stopped."
    )
    reduction: int = Field(
        3,
        ge=2,
        json_schema_extra=unit("trials"),
        description="`asha`: one in this many trials continues to the next rung.",
    )


class Search(Section):
    """Which settings are searched, and how."""

    algorithm: Literal["optuna", "nsga2", "cmaes", "random", "grid"] = Field(
        "optuna",
        description="Optuna's TPE (also for several objectives), NSGA-II, CMA-ES (one objective; needs a numeric "
        "axis), Optuna's random sampler, or every combination of the axes' values.",
    )
    objectives: Many[Objective] | None = Field(
        None,
        min_length=1,
        description="Result columns to optimise; the first one ranks; null: the selection criterion. Columns that use "
        "test labels need `selection: oracle`.",
    )
    racing: Racing | None = Field(None, description="Give up configurations that are clearly worse; left out: never.")
    stopping: Stopping | None = Field(None, description="Stop trials during training; left out: never.")
    configurations: ConfigurationCount | None = Field(
        None, description="Trained configurations besides the default; null: 20 (for grid: every combination)."
    )
    lookahead: ConfigurationCount = Field(
        4, description="Configurations in flight: number i is proposed once the result of i - lookahead is known."
    )
    startup: ConfigurationCount = Field(5, description="Random configurations before TPE starts to model.")
    seed: Seed = Field(0, description="Seed of the search.")
    space: dict[str, Axis] = Field(min_length=1, description="Axes by the dotted name of the setting that they vary.")

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
            raise ValueError("racing and stopping need a single objective; name one, or remove racing and stopping")
        return self
