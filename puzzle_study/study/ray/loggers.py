"""Ray's loggers that follow every trial of a study; each needs a package that is not installed with this one."""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import TYPE_CHECKING

from puzzle_study import config
from puzzle_study.errors import UserError
from puzzle_study.results import Results

if TYPE_CHECKING:
    from ray import tune

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


def check_loggers(study: config.Study) -> None:
    """Raise UserError before anything starts if a logger's package is not installed, or W&B has no account."""
    for name in study.loggers:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(
                f"loggers names {name}, but the package {PACKAGES[name]} is not installed; "
                f"pip install {PACKAGES[name]}, or remove it from loggers"
            )
    if "wandb" in study.loggers and not _has_account():
        raise UserError(
            "loggers names wandb, but W&B has no API key here; run `wandb login`, set WANDB_API_KEY or, "
            "to log to files alone, WANDB_MODE=offline"
        )


def make_loggers(study: config.Study, results: Results) -> list[tune.Callback]:
    """Return a study's loggers."""
    made: list[tune.Callback] = []
    for name in study.loggers:
        if name == "tensorboard":
            from ray.tune.logger import TBXLoggerCallback

            made.append(TBXLoggerCallback())
        elif name == "mlflow":
            from ray.air.integrations.mlflow import MLflowLoggerCallback

            uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{results.ray / 'mlflow.db'}"
            made.append(MLflowLoggerCallback(tracking_uri=uri, experiment_name=study.name))
            # It prints a message for every table of a new database.
            logging.getLogger("mlflow").setLevel(logging.WARNING)
        else:
            from ray.air.integrations.wandb import WandbLoggerCallback

            made.append(WandbLoggerCallback(project=study.name))
    return made


def _has_account() -> bool:
    """Whether W&B needs no key or has one, in the places where Ray's logger looks."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return True
    import wandb

    return bool(getattr(getattr(wandb, "api", None), "api_key", None))
