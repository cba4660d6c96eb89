"""Attack results as rows: what the tables of a study and the table on the screen are made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from puzzle_study.statistics import metrics

if TYPE_CHECKING:
    from torch import Tensor

    from puzzle_study.attacks.running import AttackResult
    from puzzle_study.attacks.specs import AttackSpec
    from puzzle_study.config import Reading


def row(result: AttackResult, labels_N: Tensor, reading: Reading) -> dict[str, Any]:
    """Return one row of attacks.csv, without what says which detector it is about.

    ``images`` counts the attacked ones.
    """
    return {
        **named(result.spec),
        "aggregation": reading.aggregation,
        "error": reading.error,
        **judged(result.clean_scores, result.scores, labels_N),
        "images": len(result.indices),
        "seconds": result.seconds,
        "max_perturbation": result.max_perturbation,
        "strength": result.strength,
        "flags": ";".join(result.flags),
    }


def named(spec: AttackSpec) -> dict[str, Any]:
    """Return the columns that name an attack; its seed is ``attack_seed``, ``seed`` being that of a training."""
    columns = asdict(spec)
    columns["attack_seed"] = columns.pop("seed")
    return columns


def judged(clean_N: Tensor, attacked_N: Tensor, labels_N: Tensor) -> dict[str, Any]:
    """Return the AUROC, its 95 % bootstrap interval and the FPR at 99 % TPR of all N images after an attack.

    ``auroc_clean`` is that of the same images before it. All are NaN if a score is not finite, or if the images are
    all normal or all anomalous, as ``note`` then says.
    """
    label_N = labels_N.cpu().numpy()
    clean, attacked = clean_N.cpu().numpy(), attacked_N.cpu().numpy()
    finite = bool(np.isfinite(attacked).all() and np.isfinite(clean).all())
    evaluation = metrics.evaluate(attacked, label_N) if finite else None
    return {
        "auroc": evaluation.auroc if evaluation else np.nan,
        "auroc_low": evaluation.auroc_low if evaluation else np.nan,
        "auroc_high": evaluation.auroc_high if evaluation else np.nan,
        "auroc_clean": metrics.auroc(clean, label_N) if evaluation else np.nan,
        "fpr_at_tpr99": evaluation.fpr_at_tpr99 if evaluation else np.nan,
        "note": metrics.lacking(len(label_N), int(label_N.sum())),
    }
