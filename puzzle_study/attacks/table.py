"""Attack results as rows: what attacks.csv and the table on the screen are made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from puzzle_study import metrics

if TYPE_CHECKING:
    from torch import Tensor

    from puzzle_study.attacks.running import AttackResult


def row(result: AttackResult, labels_N: Tensor, *, aggregation: str, error: str) -> dict[str, Any]:
    """Return one row of attacks.csv.

    The AUROC, its 95 % bootstrap interval and the FPR at 99 % TPR are those of all N images after the attack;
    ``images`` counts the attacked ones. They are NaN where the images are all normal or all anomalous.
    """
    label_N = labels_N.cpu().numpy()
    clean_N, attacked_N = result.clean_scores.numpy(), result.scores.numpy()
    both = 0 < int(label_N.sum()) < len(label_N) and bool(np.isfinite(attacked_N).all() and np.isfinite(clean_N).all())
    evaluation = metrics.evaluate(attacked_N, label_N) if both else None
    spec = asdict(result.spec)
    spec["attack_seed"] = spec.pop("seed")
    return {
        **spec,
        "aggregation": aggregation,
        "error": error,
        "auroc": evaluation.auroc if evaluation else np.nan,
        "auroc_low": evaluation.auroc_low if evaluation else np.nan,
        "auroc_high": evaluation.auroc_high if evaluation else np.nan,
        "auroc_clean": metrics.auroc(clean_N, label_N) if both else np.nan,
        "fpr_at_tpr99": evaluation.fpr_at_tpr99 if evaluation else np.nan,
        "images": len(result.indices),
        "seconds": result.seconds,
        "max_perturbation": result.max_perturbation,
        "flags": ";".join(result.flags),
    }
