"""The free resources of a running Ray's nodes, and asking each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puzzle_study import config
from puzzle_study.detectors.devices import cannot_use_gpu, gpu_fault
from puzzle_study.errors import UserError

ANSWER_SECONDS = 120


def places(wanted: config.Resources, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many trials fit at once on nodes with these resources."""
    asked = [(name, amount) for name, amount in (("CPU", wanted.cpu), ("GPU", wanted.gpu)) if amount > 0]
    return sum(min(int(node.get(name, 0) / amount) for name, amount in asked) for node in nodes)


def places_now(wanted: config.Resources) -> int:
    """Return how many trials fit at once on the nodes that Ray has now; at least one, since more may join."""
    import ray

    return max(1, places(wanted, [node["Resources"] for node in ray.nodes() if node["Alive"]]))


def check_gpus(wanted: config.Resources, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError if the study asks for GPUs and PyTorch cannot use those of a node that could run its trials."""
    import ray

    if wanted.gpu == 0:
        return
    # A task without a share of a GPU sees them all and need not wait for one; its process ends with it.
    remote = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(gpu_fault)
    able = [node for node in nodes if places(wanted, [node["Resources"]])]
    for node, fault in zip(
        able, answers(remote, able, [(int(node["Resources"]["GPU"]),) for node in able]), strict=True
    ):
        if fault is not None:
            raise UserError(cannot_use_gpu(named(node), fault))


def answers(remote: Any, nodes: Sequence[Mapping[str, Any]], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Run a task on each node, each with its own arguments, and return the results; UserError if one is silent."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *own
        ): node
        for node, own in zip(nodes, arguments, strict=True)
    }
    _, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    if silent:
        raise UserError(
            f"node {named(asked[silent[0]])} does not answer within {ANSWER_SECONDS} s; check that Ray runs there and "
            f"that its ports are open to the other nodes"
        )
    return list(ray.get(list(asked)))


def named(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
