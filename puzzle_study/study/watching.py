"""Reports that Ray on this machine is gone, before the driver ends.

If its node is dead, Ray ends a driver from within, some seconds later at the next use of the object store, with
exit code 1 and without an exception or a message. So the node's processes are watched from outside Ray.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from puzzle_study.cli import USAGE

# A raylet follows its agents, and may end the driver before it ends itself.
AGENT = re.compile(rb"ray::\w*Agent\b")
PROCESSES = Path("/proc")


@contextlib.contextmanager
def watched_ray(console: Console) -> Iterator[None]:
    """End this process with one sentence and exit code 2 as soon as Ray on this machine is gone.

    Enter it after Ray has started, and leave it before Ray shuts down. The console's live line is cleared first.
    """
    stop, stopper = os.pipe()
    poll = select.poll()
    poll.register(stop, select.POLLIN)
    names, logs = _ray_here()
    watched = {}
    for process, name in names.items():
        # Without these descriptors on this system, nothing is watched.
        with contextlib.suppress(OSError, AttributeError):
            watched[os.pidfd_open(process)] = name
    for descriptor in watched:
        poll.register(descriptor, select.POLLIN)

    def wait() -> None:
        gone = next(descriptor for descriptor, _ in poll.poll())
        if gone != stop:
            _end(watched[gone], logs, console)

    thread = threading.Thread(target=wait, name="watched_ray", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.write(stopper, b"\0")
        thread.join()
        for descriptor in (stop, stopper, *watched):
            os.close(descriptor)


def _end(name: str, logs: Path, console: Console) -> None:
    console.show_cursor()
    sys.stdout.flush()
    print(
        f"error: Ray on this machine stopped: its {name} ended (see {logs}); finished trials are kept, "
        f"continue with --resume",
        file=sys.stderr,
        flush=True,
    )
    # Other ways to end ask Ray to clean up first, during which Ray would end the process.
    os._exit(USAGE)


def _ray_here() -> tuple[dict[int, str], Path]:
    """Return the processes that this node needs, by their numbers, and the folder of their logs."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    socket = Path(next(node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == here))
    of_raylet = f"--raylet_socket_name={socket}".encode()
    found = {}
    for entry in PROCESSES.glob("[0-9]*"):
        if of_raylet in _command(entry.name):
            # Agents first: only the first process that is gone is named, and a raylet ends just after its agent.
            for child in _children(entry.name):
                if AGENT.match(b"".join(_command(child)[:1])):
                    found[int(child)] = "agent"
            found[int(entry.name)] = "raylet"
    for child in _children(str(os.getpid())):
        if b"".join(_command(child)[:1]).endswith(b"/gcs_server"):
            found[int(child)] = "gcs_server"
    return found, socket.parent.parent / "logs"


def _command(process: str) -> list[bytes]:
    try:
        return (PROCESSES / process / "cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended, or belongs to another user
        return []


def _children(process: str) -> list[str]:
    found = []
    for path in PROCESSES.glob(f"{process}/task/*/children"):
        with contextlib.suppress(OSError):
            found += path.read_text(encoding="ascii").split()
    return found
