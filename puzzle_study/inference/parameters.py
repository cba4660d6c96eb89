"""The settings of a study file as flat parameters of an estimator, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from puzzle_study import config
from puzzle_study.config import layers
from puzzle_study.errors import cut

SETTINGS: dict[str, str] = {
    "kind": "puzzle.kind",
    "grid": "puzzle.grid",
    "permutations": "puzzle.permutations",
    "permutation_count": "puzzle.count",
    "permutation_seed": "puzzle.seed",
    "hide": "puzzle.hide",
    "per_batch": "puzzle.per_batch",
    "base_channels": "model.base_channels",
    "discriminator_channels": "model.discriminator_channels",
    "initialisation": "model.initialisation",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "learning_rate": "train.learning_rate",
    "discriminator_learning_rate": "train.discriminator_learning_rate",
    "weight_decay": "train.weight_decay",
    "schedule": "train.schedule",
    "warm_up": "train.warm_up",
    "averaging": "train.averaging",
    "plateau_factor": "train.plateau_factor",
    "plateau_patience": "train.plateau_patience",
    "lambda_": "train.lambda",
    "feature_loss": "train.feature_loss",
    "convergence_epochs": "train.convergence_epochs",
    "precision": "train.precision",
    "adversary": "train.adversary.method",
    "epsilon": "train.adversary.epsilon",
    "alpha": "train.adversary.alpha",
    "adversary_steps": "train.adversary.steps",
    "adversary_noise": "train.adversary.noise",
    "adversary_target": "train.adversary.target",
    "error": "score.error",
    "aggregation": "score.aggregation",
    "scored_permutations": "score.permutations",
    "puzzle_set": "score.puzzle_set",
    "validation_fraction": "data.validation_fraction",
}
"""Each parameter with the setting that it is, by dotted name."""


def to_settings(parameters: Mapping[str, Any], *, channels: int) -> config.Settings:
    """Return the configuration of these parameters; the data set is ``folder``, the user's own images.

    Raises:
        ValueError: a value is of the wrong type or out of its range.
    """
    layers = [layers.nested(dotted, _plain(parameters[name])) for name, dotted in SETTINGS.items()]
    data = {"data": {"name": "folder", "grayscale": channels == 1}}
    try:
        return config.Settings.model_validate(layers.merge(data, *layers))
    except ValidationError as error:
        raise ValueError(_sentence(error.errors()[0])) from error


def from_settings(settings: config.Settings) -> dict[str, Any]:
    """Return the parameters of a configuration."""
    flat = layers.leaves(settings.model_dump(mode="json", by_alias=True))
    return {name: flat[dotted] for name, dotted in SETTINGS.items()}


def _plain(value: Any) -> Any:
    """Return Python's number for NumPy's: a grid search hands out the latter, strict settings want the former."""
    return value.item() if isinstance(value, np.generic) else value


def _sentence(first: Any) -> str:
    """Return what pydantic found first, in the names of the parameters."""
    place = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    for name, dotted in SETTINGS.items():
        setting = dotted.rpartition(".")[2]
        if place == dotted or place.startswith(f"{dotted}."):
            return f"{name} must be {reason}, got {cut(repr(first['input']))}"
        if dotted == f"{place}.{setting}" and reason.startswith(f"{setting} "):
            # A section's own check names the setting in its sentence.
            return f"{name}{reason.removeprefix(setting)}"
    return f"{place}: {reason}"
