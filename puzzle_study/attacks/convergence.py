"""Whether an attack has converged: held to stronger runs on a few images.

A number under attack is an upper bound of the robustness that it stands for. It is believed if more steps, another
random start and other methods of the same ball find no more. Only iterated attack1 is held to that: one step is one
step by definition, and attack2 pushes something else than the score, so that more of it may even lower the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from puzzle_study.attacks.adapter import Centre
from puzzle_study.attacks.flags import TOLERANCE
from puzzle_study.attacks.methods import METHODS, Norm
from puzzle_study.attacks.running import AttackResult, run_attacks
from puzzle_study.attacks.specs import AttackSpec, attack_spec
from puzzle_study.statistics import metrics

STEPS = (1, 10, 100)
"""Along which the AUROC of each method is told."""
OTHERS: Mapping[Norm, tuple[str, ...]] = {"linf": ("apgd", "bim", "pgd"), "l2": ("apgdl2", "pgdl2")}
"""Methods that attacks in a ball are held to: the first that is not one of them."""
STEP_SIZE = 0.1
"""Of those, as a fraction of ε, if they do not choose their own: small, since they take many."""
BESIDE = 64
"""Images of a side that is not attacked: they cost a forward pass and make the AUROC finer."""
DROP, POINT = 0.05, 0.01
"""More than this share of the change of the scores, or of the AUROC, is not converged."""


@dataclass(frozen=True)
class Convergence:
    """One attack on a few images, and the strongest that was found there.

    Attributes:
        spec: the attack.
        images: how many were attacked.
        strength: mean change of their scores, as :class:`AttackResult` has it.
        strongest: that of the best of all runs, image by image.
        auroc: of these images; NaN if they are all normal or all anomalous.
        auroc_strongest: of the best of all runs.
        auroc_steps: AUROC after each of :data:`STEPS`, one run each.
    """

    spec: AttackSpec
    images: int
    strength: float
    strongest: float
    auroc: float
    auroc_strongest: float
    auroc_steps: Mapping[int, float]

    def columns(self) -> dict[str, Any]:
        """Return the columns of attacks.csv."""
        return {
            "subset_images": self.images,
            "subset_strength": self.strength,
            "subset_strength_strongest": self.strongest,
            "subset_auroc": self.auroc,
            **{f"subset_auroc_{steps}": auroc for steps, auroc in self.auroc_steps.items()},
            "subset_auroc_strongest": self.auroc_strongest,
        }


def not_converged(columns: Mapping[str, Any]) -> bool:
    """Return whether a row of attacks.csv is far from the strongest run on the images that were held to it."""
    found, strongest = columns["subset_strength"], columns["subset_strength_strongest"]
    own, best = columns["subset_auroc"], columns["subset_auroc_strongest"]
    # A record has None for NaN; neither is more than a point.
    lower = own - best if own is not None and best is not None else 0.0
    return bool(strongest - found > TOLERANCE + DROP * max(found, 0.0) or lower > POINT)


def to_check(specs: Sequence[AttackSpec]) -> list[AttackSpec]:
    """Return the attacks that are held to stronger runs: iterated gradients on the image, at the largest ε."""
    iterated = [
        spec
        for spec in specs
        if METHODS[spec.method].uses_gradient and METHODS[spec.method].iterated and spec.attack == "attack1"
    ]
    largest = max((spec.epsilon for spec in iterated), default=0.0)
    return [spec for spec in iterated if spec.epsilon == largest > 0]


def check_convergence(
    detector: nn.Module,
    images_NCHW: Tensor,
    labels_N: Tensor,
    validation_scores: Tensor,
    specs: Sequence[AttackSpec],
    *,
    count: int,
) -> list[Convergence]:
    """Hold attacks to stronger runs of the same ball and target on a few of the images.

    Args:
        detector: as :func:`run_attacks` takes it.
        images_NCHW: uint8, or floats in [0, 1].
        labels_N: bool, True for anomalies.
        validation_scores: scores of normal images that were held out.
        specs: what :func:`to_check` returned; of one ε and target.
        count: images of each attacked side, at most.
    """
    if not specs or count == 0:
        return []
    labels_N = labels_N.cpu().bool()
    index_S = _subset(labels_N, specs[0].target, count)
    images_SCHW, label_S = images_NCHW[index_S], labels_N[index_S]
    along = {spec: [replace(spec, steps=steps, restarts=1) for steps in STEPS] for spec in specs}
    runs = list(dict.fromkeys([*specs, *(run for several in along.values() for run in several), *_others(specs)]))
    results = run_attacks(detector, images_SCHW, label_S, validation_scores, runs, keep=0, compare=False)
    found = dict(zip(runs, results, strict=True))
    scale = Centre.of(validation_scores).scale
    checked = []
    for spec in specs:
        own, norm = found[spec], METHODS[spec.method].norm
        best_S = _best([one for run, one in found.items() if METHODS[run.method].norm == norm], label_S)
        change_A = (_wanted(label_S) * (best_S.double() - own.clean_scores.double()))[own.indices]
        checked.append(
            Convergence(
                spec=spec,
                images=len(own.indices),
                strength=own.strength,
                strongest=float(change_A.nan_to_num(0, 0, 0).mean()) / scale if len(change_A) else 0.0,
                auroc=_auroc(own.scores, label_S),
                auroc_strongest=_auroc(best_S, label_S),
                auroc_steps={run.steps: _auroc(found[run].scores, label_S) for run in along[spec]},
            )
        )
    return checked


def _subset(labels_N: Tensor, target: str, count: int) -> Tensor:
    """Return positions spread evenly over each side: ``count`` of an attacked one, more of the other."""
    parts = []
    for anomalous, name in ((False, "normal"), (True, "anomalous")):
        side = (labels_N == anomalous).nonzero().flatten()
        most = min(len(side), count if target in (name, "both") else BESIDE)
        parts.append(side[torch.arange(most) * len(side) // max(most, 1)])
    return torch.cat(parts).sort().values


def _others(specs: Sequence[AttackSpec]) -> list[AttackSpec]:
    """Return, for each ball, a long run of a method that is not among these, from a start of its own."""
    own, found = {spec.method for spec in specs}, []
    for norm in dict.fromkeys(METHODS[spec.method].norm for spec in specs):
        method = next((name for name in OTHERS[norm] if name not in own), OTHERS[norm][0])
        steps = max(STEPS[-1], *(spec.steps for spec in specs))
        first = specs[0]
        more: dict[str, Any] = {"epsilon": first.epsilon, "target": first.target, "seed": first.seed + 1}
        found.append(attack_spec(first.attack, method, steps=steps, step_size=STEP_SIZE, **more))
    return found


def _wanted(label_S: Tensor) -> Tensor:
    return 1 - 2 * label_S.double()


def _best(results: Sequence[AttackResult], label_S: Tensor) -> Tensor:
    """Return the scores of the strongest of all results, image by image."""
    wanted_S = _wanted(label_S)
    score_RS = torch.stack([one.scores.double() for one in results])
    reached_RS = torch.where(score_RS.isfinite(), wanted_S * score_RS, -torch.inf)
    return score_RS.gather(0, reached_RS.argmax(0, keepdim=True))[0]


def _auroc(score_S: Tensor, label_S: Tensor) -> float:
    """Return the AUROC, NaN if it cannot be had."""
    if not score_S.isfinite().all() or metrics.lacking(len(label_S), int(label_S.sum())):
        return float("nan")
    return metrics.auroc(score_S.numpy(), label_S.numpy())
