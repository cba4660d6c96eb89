"""Starting Ray quietly and on loopback, and saying at once what it cannot give."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from puzzle_study import config
from puzzle_study.errors import UserError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # The listeners of a single machine stay on 127.0.0.1; Ray knows this only as a switch for other systems.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


@contextlib.contextmanager
def local_ray(resources: config.Resources) -> Iterator[None]:
    """Start Ray on this machine for the time of a study, with a private temporary folder.

    Raises:
        UserError: a trial asks for more than the machine has.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    # A token of this run alone, inherited by its processes and written nowhere: other users of the machine reach
    # the loopback too.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    # Ray opens its own folder to everybody, so it gets one inside a folder that is private.
    temporary = Path(tempfile.mkdtemp(prefix="puzzle_study_"))
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(temporary / "ray"),
        )
        logging.getLogger("ray").setLevel(logging.ERROR)
        check_resources(resources, ray.cluster_resources())
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def check_resources(wanted: config.Resources, there: dict[str, float]) -> None:
    """Refuse a trial that no node could ever run, instead of waiting for it.

    Raises:
        UserError: names the resource.
    """
    for name, amount in (("CPU", wanted.cpu), ("GPU", wanted.gpu)):
        if amount > there.get(name, 0):
            raise UserError(
                f"resources.{name.lower()} asks for {amount:g} {name}s a trial, but there are {there.get(name, 0):g}; "
                f"lower it in the study file or with --set resources.{name.lower()}=…"
            )
