"""``python -m benchmarks.cluster --nodes 50 --lose 5``: a cluster's lost nodes must not change a study's numbers.

Runs a small study on this machine, then again on a simulated cluster: a head and many nodes with one CPU each, all of
them processes of this machine (``ray.cluster_utils``). Nodes that run a trial are killed at random moments. Prints what
was lost and whether tables and error matrices are the same to the bit. An idle node needs about 0.12 GB of memory, one
that runs a trial 0.6 GB; a few trials run at once.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.kills import equal_to_the_bit, finished, start, workers

STUDY = """
name: cluster
data: {{name: digits, normal_classes: [3, 8], max_train_images: 48, max_test_images: 40}}
model: {{base_channels: 2}}
train: {{epochs: {epochs}, batch_size: 16, precision: float32}}
evaluate: {{every: 20, max_images: 20}}
references: []
seeds: {seeds}
max_concurrent: 8
"""
CLASSES = 2
# All nodes share this machine. Their workers start slowly, and Ray would give them up; it would let them yield to every
# other program, and each node would keep an idle one.
TOGETHER = {
    "RAY_worker_register_timeout_seconds": "3600",
    "RAY_worker_niceness": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_num_workers_soft_limit": "0",
}
# For the same reason the nodes are asked a few at a time, and have more time to answer.
TUNE = """
from puzzle_study.study import nodes
from puzzle_study.study.ray import cluster
def answers(remote, asked, arguments):
    return [
        answer
        for first in range(0, len(asked), 5)
        for answer in nodes.answers(remote, asked[first : first + 5], arguments[first : first + 5])
    ]
nodes.ANSWER_SECONDS, cluster.answers = 3600, answers
from puzzle_study.tune import main
main()
"""
OBJECT_STORE = 80_000_000
"""Bytes of shared memory of a node, of which a small study uses next to nothing."""


@dataclass
class Losses:
    """What was seen while a cluster lost nodes."""

    nodes: int = 0
    memory: float = 0.0
    """Memory of all nodes with their workers at the first loss, in bytes."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--nodes", type=click.IntRange(2), default=50, show_default=True, help="Nodes beside the head.")
@click.option("--lose", type=click.IntRange(1), default=5, show_default=True, help="How many of them are killed.")
@click.option("--trials", type=click.IntRange(2), default=24, show_default=True, help="Trials, a multiple of two.")
@click.option("--epochs", type=click.IntRange(1), default=40, show_default=True, help="Epochs of a trial.")
@click.option("--seed", default=0, show_default=True, help="Seed of moments and victims.")
def main(nodes: int, lose: int, trials: int, epochs: int, seed: int) -> None:
    """Run a study on a simulated cluster that loses nodes and compare it with one on this machine."""
    if lose >= nodes:
        raise click.UsageError(f"--lose {lose} leaves none of {nodes} nodes; lose fewer")
    with tempfile.TemporaryDirectory(prefix="cluster_") as folder:
        if not measure(Path(folder), nodes, lose, trials, epochs, seed):
            sys.exit(1)


def measure(folder: Path, nodes: int, lose: int, trials: int, epochs: int, seed: int) -> bool:
    """Run both studies and print what was lost and what differs; returns whether all is as it must be."""
    study = folder / "cluster.yaml"
    study.write_text(STUDY.format(epochs=epochs, seeds=list(range(trials // CLASSES))), encoding="utf-8")
    os.environ |= TOGETHER
    started = time.monotonic()
    code = start(study, folder / "alone").wait()
    click.echo(f"alone: {trials} trials of {epochs} epochs in {time.monotonic() - started:.0f} s, exit code {code}")
    if code != 0:
        return False
    started = time.monotonic()
    with simulated(folder / "ray", nodes) as cluster:
        click.echo(f"cluster: {nodes} nodes started in {time.monotonic() - started:.0f} s")
        started = time.monotonic()
        losses, code = disturbed(cluster, study, folder / "lost", trials, lose, seed)
        seconds = time.monotonic() - started
    root = folder / "lost" / "cluster"
    went_on = sum("going on after epoch" in path.read_text(encoding="utf-8") for path in root.glob("logs/*.log"))
    click.echo(
        f"lost: {losses.nodes} of {nodes} nodes, which took {losses.memory / 1e9:.1f} GB together; the study took "
        f"{seconds:.0f} s, {went_on} trials continued from a checkpoint, exit code {code}"
    )
    if losses.nodes < lose:
        click.echo(f"the study was over after {losses.nodes} of {lose} losses; raise --epochs or --trials")
    if code != 0:
        return False
    same = equal_to_the_bit(folder / "alone" / "cluster", root)
    click.echo("equal to the bit: " + ", ".join(f"{name} {'yes' if equal else 'NO'}" for name, equal in same.items()))
    return all(same.values()) and losses.nodes == lose


@contextlib.contextmanager
def simulated(folder: Path, nodes: int) -> Iterator[Any]:
    """Provide a cluster of nodes with one CPU and a head without any, in a private folder."""
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_TMPDIR=str(folder.parent),
    )
    # Ray reads its environment on import.
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE, "include_dashboard": False, "temp_dir": str(folder)}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes):
            cluster.add_node(wait=False, num_cpus=1, object_store_memory=OBJECT_STORE)
        cluster.wait_for_nodes(timeout=600)
        yield cluster
    finally:
        cluster.shutdown()


def disturbed(cluster: Any, study: Path, results: Path, trials: int, lose: int, seed: int) -> tuple[Losses, int]:
    """Run a study to its end while its cluster loses nodes; returns the losses and the exit code.

    Losses are spread over the first half of the study: each waits until a number of trials that was drawn beforehand is
    finished and a node runs a trial.
    """
    rng, losses = random.Random(seed), Losses()
    moments = sorted(rng.uniform(0, trials / 2) for _ in range(lose))
    command = [sys.executable, "-c", TUNE, str(study), "--results", str(results), "--quiet"]
    process = subprocess.Popen([*command, "--address", cluster.address], start_new_session=True)
    try:
        for moment in moments:
            while process.poll() is None:
                if len(finished(results / "cluster")) >= moment and (busy := busy_nodes(cluster)):
                    losses.memory = losses.memory or sum(map(memory, cluster.worker_nodes))
                    cluster.remove_node(rng.choice(busy), allow_graceful=False)
                    losses.nodes += 1
                    break
                time.sleep(0.5)
        return losses, process.wait()
    finally:
        process.kill()
        process.wait()


def busy_nodes(cluster: Any) -> list[Any]:
    """Return the nodes that run a trial."""
    return [node for node in cluster.worker_nodes if workers(raylet(node))]


def memory(node: Any) -> float:
    """Return the memory of a node's processes in bytes, what they share with others counted in part."""
    found = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(raylet(node))
        for one in (process, *process.children(recursive=True)):
            found += one.memory_full_info().pss
    return found


def raylet(node: Any) -> int:
    """Return the process of a node, whose children are its agents and workers."""
    return int(node.all_processes["raylet"][0].process.pid)


if __name__ == "__main__":
    main()
