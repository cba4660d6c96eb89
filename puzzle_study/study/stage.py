"""A stage after the trainings: units that run on their own, spread over Ray, each leaving one record."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from puzzle_study import config
from puzzle_study.detectors.devices import claim_cpus, granted_device
from puzzle_study.detectors.memory import first_line, is_out_of_memory
from puzzle_study.errors import UserError
from puzzle_study.results import Results
from puzzle_study.study.nodes import places_now
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.storage import Place
from puzzle_study.trials.run import check_images
from puzzle_study.trials.spec import TrialSpec

RETRIES = 3
WAIT_SECONDS = 1.0
"""How long the time left may stand still while no unit ends."""


class StageUnit(Protocol):
    """A piece of a stage: what is done to one detector."""

    @property
    def trial(self) -> TrialSpec:
        """The detector."""

    def run(self, results: Results, device: Any) -> None:
        """Do it and write the record."""


def run_units(
    units: Sequence[StageUnit], study: config.Study, place: Place, progress: StageProgress, *, section: str
) -> None:
    """Run units in Ray actors, each of which keeps its process and its share of a GPU.

    Args:
        units: what has no record yet.
        study: its resources, and its images, which every node must have.
        place: where results are.
        progress: told of each unit that ends.
        section: the stage's section of the study file, to be named if memory is too small.

    Raises:
        UserError: a unit cannot be run on these images, memory is too small, a detector is missing or damaged, or a
            node has other images.
        OSError: a record could not be written.
    """
    import ray
    from ray.exceptions import RayTaskError

    resources = study.resources
    occupied: dict[str, Any] = {"num_cpus": resources.cpu, "num_gpus": resources.gpu}
    worker: Any = ray.remote(**occupied, max_restarts=-1, max_task_retries=RETRIES)(Worker)
    waiting = deque(units)
    running: dict[Any, Any] = {}
    free: list[Any] = []
    while running or waiting:
        at_once = min(study.max_concurrent or len(units), places_now(resources))
        while waiting and len(running) < at_once:
            actor = free.pop() if free else worker.remote(place, resources, study.data)
            running[actor.run.remote(waiting.popleft())] = actor
        free.clear()  # an actor ends with its last reference, and another may wait for its resources
        ended, _ = ray.wait(list(running), timeout=WAIT_SECONDS)
        progress.tick()
        if not ended:
            continue
        (ready,) = ended
        free.append(running.pop(ready))
        try:
            ray.get(ready)
        except RayTaskError as error:
            if isinstance(error.cause, (UserError, OSError)):
                raise error.cause from None
            if is_out_of_memory(error.cause):
                raise UserError(
                    f"one of the {section} does not fit the memory ({first_line(error.cause)}); lower "
                    f"{section}.max_images, or run fewer at once (resources, max_concurrent)"
                ) from None
            raise
        progress.advance()


class Worker:
    """What runs units one after the other in a process of its own, so that only the first waits for PyTorch and a GPU.

    A Ray task that holds a GPU ends its process. If told to keep it, Ray may give the process another GPU later, and
    PyTorch would stay on the first.
    """

    def __init__(self, place: Place, resources: config.Resources, images: config.Data) -> None:
        self._place, self._resources, self._images = place, resources, images

    def run(self, unit: StageUnit) -> None:
        claim_cpus(self._resources.cpu)
        check_images(self._images, unit.trial.fingerprint)
        with self._place.unit() as results:
            unit.run(results, granted_device(self._resources.gpu))
