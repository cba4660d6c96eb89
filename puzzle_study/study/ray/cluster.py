"""Starts Ray on loopback or joins a running cluster, and refuses at once what it cannot run."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import puzzle_study
from puzzle_study import __version__, config
from puzzle_study.detectors.memory import first_line
from puzzle_study.errors import UserError
from puzzle_study.study.nodes import answers, check_gpus, named
from puzzle_study.study.storage import Place, unseen
from puzzle_study.study.watching import watched_ray

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Milliseconds to wait for the reason of a worker's death: whether its node was lost takes longer than Ray's second.
    "RAY_timeout_ms_task_wait_for_death_info": "20000",
    # Paths outside the study file, such as PUZZLE_STUDY_CACHE, also start from the current folder in trials.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# Ray prints messages about nodes, such as a page about every dying worker, whatever log_to_driver is.
SILENT, VERBOSE = {"RAY_DEDUP_LOGS_SKIP_REGEX": "."}, {"RAY_DEDUP_LOGS": "0"}
# The listeners of a single machine stay on 127.0.0.1; Ray has this only as a switch for other systems.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Settings for Ray's workers on the nodes of a cluster, which have their own environment.
OF_WORKERS = ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_TRAIN_V2_ENABLED")
NAMESPACE = "puzzle_study"
CONNECT_SECONDS = 10
ASK_SECONDS = 15
ASKING = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1]).cluster_id
except Exception as error:
    sys.exit(type(error).__name__)
"""


@contextlib.contextmanager
def started_ray(
    study: config.Study, place: Place, fingerprint: str, address: str | None, console: Console, *, verbose: bool = False
) -> Iterator[None]:
    """Provide Ray for a study, on this machine or by joining the cluster at an address; raises their UserErrors."""
    _set_environment(VERBOSE if verbose else SILENT)
    started = local_ray(study.resources) if address is None else joined_ray(study, place, fingerprint, address)
    with started, watched_ray(console):
        yield


@contextlib.contextmanager
def local_ray(resources: config.Resources) -> Iterator[None]:
    """Start Ray on this machine for a study, with a private temporary folder; UserError if it cannot run the study."""
    _set_environment(QUIET | LOOPBACK)
    # A token for this run alone, inherited by its processes and never written to a file, because other users of the
    # machine can reach the loopback too.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    # Ray makes its own folder readable by everybody, so it is put inside a private folder.
    temporary = Path(tempfile.mkdtemp(prefix="puzzle_study_"))
    try:
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(temporary / "ray"),
            )
        except Exception as error:  # Ray raises a plain Exception if a start takes longer than its 30 s
            raise UserError(
                f"Ray could not start on this machine ({first_line(error)}); end other programs if it is busy, or set "
                f"TMPDIR to a short path with free space, then run the same command again"
            ) from error
        logging.getLogger("ray").setLevel(logging.ERROR)
        check_resources(resources, [ray.cluster_resources()])
        check_gpus(resources, ray.nodes())
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def joined_ray(study: config.Study, place: Place, fingerprint: str, address: str) -> Iterator[None]:
    """Join a running cluster for a study, after checking every node; UserError if it cannot run this study."""
    _set_environment(QUIET)
    token = _mend_token() if os.environ["RAY_AUTH_MODE"] == "token" else None
    found = _reachable(address)
    _ask_in(found, token)
    import ray

    try:
        try:
            ray.init(
                address=found,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {name: os.environ[name] for name in OF_WORKERS}},
            )
        except Exception as error:
            if "Version mismatch" in str(error):
                raise UserError(
                    f"the cluster runs other versions than this machine ({' '.join(str(error).split())}); "
                    f"install the same Ray and Python on every node"
                ) from error
            raise UserError(
                f"Ray could not join the cluster at {found} ({first_line(error)}); check it with `ray status` on its "
                f"head, then run the same command again"
            ) from error
        logging.getLogger("ray").setLevel(logging.ERROR)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        check_resources(study.resources, [node["Resources"] for node in nodes])
        # Kept until the driver ends: its name keeps a second driver out, on any node.
        _claimed = _claim(place)
        with _sign(place) as sign:
            check_nodes(place, fingerprint, _ask(nodes, study, place, sign))
        check_gpus(study.resources, nodes)
        yield
    finally:
        ray.shutdown()


def check_resources(wanted: config.Resources, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise UserError for a trial that no node can run, instead of waiting for it."""
    where = "there are" if len(nodes) == 1 else "no node has more than"
    for name, amount in (("CPU", wanted.cpu), ("GPU", wanted.gpu)):
        most = max((node.get(name, 0) for node in nodes), default=0)
        if amount > most:
            raise UserError(
                f"resources.{name.lower()} asks for {amount:g} {name}s per trial, but {where} {most:g}; "
                f"lower it in the study file or with --set resources.{name.lower()}=…"
            )
    if not any(wanted.cpu <= node.get("CPU", 0) and wanted.gpu <= node.get("GPU", 0) for node in nodes):
        raise UserError(
            f"resources asks for {wanted.cpu:g} CPUs and {wanted.gpu:g} GPUs per trial, and no single node has both; "
            f"lower one of them"
        )


def check_nodes(place: Place, fingerprint: str, answers: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError if nodes differ from this machine, from their ``answers`` to :func:`_ask`."""
    for answer in answers:
        if answer["version"] != __version__:
            there = answer["version"] or "no puzzle_study"
            raise UserError(
                f"node {answer['node']} has {there}, this machine puzzle_study {__version__}; "
                f"install the same version on every node, for Ray's own Python"
            )
    digest = package_digest()
    for answer in answers:
        if answer["digest"] != digest:
            raise UserError(
                f"node {answer['node']} has other source files of puzzle_study {__version__} than this machine; "
                f"install the same checkout on every node"
            )
    blind = [answer["node"] for answer in answers if not answer["sees"]]
    if blind:
        raise UserError(unseen(place.root, blind))
    for answer in answers:
        if answer["error"]:
            raise UserError(f"node {answer['node']}: {answer['error']}")
        if answer["fingerprint"] != fingerprint:
            raise UserError(
                f"node {answer['node']} has other images in data.root than this machine; copy the same files to it"
            )


def package_digest() -> str:
    """Return a hash of the package's source files."""
    found = hashlib.sha256()
    root = Path(puzzle_study.__file__).parent
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def _set_environment(names: Mapping[str, str]) -> None:
    os.environ.update({name: value for name, value in names.items() if name not in os.environ})


def _mend_token() -> str:
    """Return the source of the cluster's token, or raise UserError; make a file that others can read private."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077 and path.stat().st_uid == os.getuid():
            path.chmod(0o600)
        if path.read_text(encoding="utf-8").strip():
            return str(path)
    except OSError:
        pass
    raise UserError(
        f"there is no token for the cluster in {path}; copy that file from the cluster's head, "
        f"or set RAY_AUTH_MODE=disabled if the cluster was started without a token"
    )


def _reachable(address: str) -> str:
    """Return an address's HOST:PORT, or raise UserError at once; Ray would wait for minutes if nothing listens."""
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address_or_die

        try:
            address = canonicalize_bootstrap_address_or_die("auto")
        except ConnectionError as error:
            raise UserError(
                "this machine belongs to no running Ray cluster, or to several; give --address HOST:PORT, start one "
                "with `ray start --head`, or remove --address to run on this machine alone"
            ) from error
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdigit():
        raise UserError(f"--address must be auto or HOST:PORT, got {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: an invalid host name
        raise UserError(
            f"no Ray cluster answers at {address} ({error}); start one, or remove --address to run on this machine"
        ) from error
    return address


def _ask_in(address: str, token: str | None) -> None:
    """Raise UserError unless the cluster accepts this machine; Ray would try for 20 s, or 13 min if it is not Ray."""
    try:
        # In a separate process, which can be ended and whose output is captured.
        asked = subprocess.run(
            [sys.executable, "-c", ASKING, address], capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
        refused = asked.stderr.split()[-1:] if asked.returncode else None
    except subprocess.TimeoutExpired:
        refused = []
    if refused == ["AuthenticationError"]:
        mine = f"another token than that of {token}" if token else "a token, and RAY_AUTH_MODE turns it off here"
        raise UserError(
            f"the Ray cluster at {address} does not let this machine in: it was started with {mine}; "
            f"copy ~/.ray/auth_token from its head, or set RAY_AUTH_MODE as it was set there"
        )
    if refused is not None:
        raise UserError(
            f"{address} does not answer like a Ray cluster; give the address that `ray start --head` printed"
        )


def _claim(place: Place) -> Any:
    """Return an actor that lives as long as the driver, named after the results; raise UserError if it exists."""
    import ray

    class Claim:
        """Does nothing."""

    results = f"{place.url}/{place.name}" if place.url else place.root
    try:
        return ray.remote(Claim).options(num_cpus=0, name=f"results {results}").remote()
    except ValueError as error:
        other = "another `storage`" if place.url else "--results"
        raise UserError(f"{results} is in use by another run on this cluster; wait for it or use {other}") from error


@contextlib.contextmanager
def _sign(place: Place) -> Iterator[str | None]:
    """Write a file into the results folder for the nodes to see; None with a store, which each node checks itself."""
    if place.url is not None:
        yield None
        return
    sign = Path(place.root) / f".sign-{secrets.token_hex(8)}"
    sign.touch()
    try:
        yield str(sign)
    finally:
        sign.unlink(missing_ok=True)


def _ask(nodes: Sequence[Mapping[str, Any]], study: config.Study, place: Place, sign: str | None) -> list[Any]:
    """Run a small task on every node that reports what it has."""
    import ray

    here, driver = __version__, ray.get_runtime_context().get_node_id()

    # Inside a function, so that it travels as code: a node may have no puzzle_study, or another version.
    def describe(node: str, data: dict[str, Any], storage: tuple[str, str] | None, local: bool) -> dict[str, Any]:
        import tempfile
        from pathlib import Path

        answer = {"node": node, "version": None, "digest": None, "sees": True, "error": None, "fingerprint": None}
        try:
            import puzzle_study
        except ImportError:
            return answer
        answer["version"] = puzzle_study.__version__
        if puzzle_study.__version__ != here:
            return answer
        from puzzle_study import config, datasets
        from puzzle_study.errors import UserError
        from puzzle_study.study.ray.cluster import package_digest
        from puzzle_study.study.storage import Store

        answer["digest"] = package_digest()
        try:
            if sign is not None:
                answer["sees"] = local or Path(sign).exists()
                if answer["sees"]:
                    tempfile.TemporaryFile(dir=Path(sign).parent).close()
            elif storage is not None:
                Store(*storage).check()
            answer["fingerprint"] = datasets.fingerprint(config.Data.model_validate(data))
        except (UserError, OSError) as error:
            answer["error"] = str(error)
        return answer

    remote = ray.remote(num_cpus=0, max_retries=0)(describe)
    storage = (place.url, place.name) if place.url is not None else None
    data = study.data.model_dump(mode="json", by_alias=True)
    return answers(remote, nodes, [(named(node), data, storage, node["NodeID"] == driver) for node in nodes])
