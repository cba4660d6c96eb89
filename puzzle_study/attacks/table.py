"""Attack results as rows: what the tables of a study and the table on the screen are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from puzzle_study.attacks.convergence import not_converged
from puzzle_study.attacks.flags import FLAGS
from puzzle_study.attacks.smallest import smallest_epsilons
from puzzle_study.inference.calibration import FALSE_POSITIVE_RATE, Calibration, flagged_shares
from puzzle_study.statistics import metrics

if TYPE_CHECKING:
    from torch import Tensor

    from puzzle_study.attacks.running import AttackResult
    from puzzle_study.attacks.specs import AttackSpec
    from puzzle_study.config import Reading
    from puzzle_study.detectors.base import Detector


def row(result: AttackResult, labels_N: Tensor, reading: Reading, validation_V: Tensor) -> dict[str, Any]:
    """Return one row of attacks.csv, without what says which detector it is about.

    ``images`` counts the attacked ones; ``validation_V`` are the detector's scores of its validation images.
    """
    return {
        **named(result.spec),
        "aggregation": reading.aggregation,
        "error": reading.error,
        **judged(result.clean_scores, result.scores, labels_N, validation_V),
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


def judged(clean_N: Tensor, attacked_N: Tensor, labels_N: Tensor, validation_V: Tensor) -> dict[str, Any]:
    """Return the AUROC, its 95 % bootstrap interval and the FPR at 99 % TPR of all N images after an attack.

    ``auroc_clean`` is that of the same images before it. All are NaN if a score is not finite, or if the images are
    all normal or all anomalous, as ``note`` then says. ``flagged_normal`` and ``flagged_anomalous``, before the attack
    with ``_clean`` behind, are the shares of normal and of anomalous images above the threshold that the validation
    scores give for a false-positive rate of 5 %: false alarms and catches.
    """
    label_N = labels_N.cpu().numpy().astype(bool)
    clean, attacked = clean_N.cpu().numpy(), attacked_N.cpu().numpy()
    finite = bool(np.isfinite(attacked).all() and np.isfinite(clean).all())
    evaluation = metrics.evaluate(attacked, label_N) if finite else None
    validation = validation_V.double().cpu().numpy()
    before, after = (flagged_shares(validation, scores, label_N) for scores in (clean, attacked))
    return {
        "auroc": evaluation.auroc if evaluation else np.nan,
        "auroc_low": evaluation.auroc_low if evaluation else np.nan,
        "auroc_high": evaluation.auroc_high if evaluation else np.nan,
        "auroc_clean": metrics.auroc(clean, label_N) if evaluation else np.nan,
        "fpr_at_tpr99": evaluation.fpr_at_tpr99 if evaluation else np.nan,
        **(after if finite else dict.fromkeys(after)),
        **{f"{name}_clean": share for name, share in before.items()},
        "note": metrics.lacking(len(label_N), int(label_N.sum())),
    }


def checked(row: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of attacks.csv with what it was held to, and with the flag if that was stronger."""
    flags = {*filter(None, row["flags"].split(";")), *(["not_converged"] if not_converged(columns) else [])}
    return {**row, **columns, "flags": ";".join(name for name in FLAGS if name in flags)}


def smallest_rows(detector: Detector, images_NCHW: Tensor, labels_N: Tensor, spec: AttackSpec) -> list[dict[str, Any]]:
    """Return the rows of smallest_epsilon.csv, one for each attacked image, without what says which detector it is.

    ``epsilon`` is the largest ε that was tried on single images, ``epsilon_image`` the smallest that takes the image
    across the threshold, ``epsilon_half`` that at which the AUROC passes 50 %; infinite if none does.
    """
    threshold = Calibration.of(detector).threshold(FALSE_POSITIVE_RATE)
    validation_V = detector.scores(detector.validation_NK)
    found = smallest_epsilons(detector, images_NCHW, labels_N, validation_V, spec, threshold=threshold)
    common = {
        **named(spec),
        "aggregation": detector.reading.aggregation,
        "error": detector.reading.error,
        "threshold": threshold,
        "epsilon_half": found.epsilon_half,
    }
    return [
        {
            **common,
            "image": index,
            "anomalous": bool(labels_N[index]),
            "score": float(found.clean_scores[index]),
            "epsilon_image": float(epsilon),
        }
        for index, epsilon in zip(found.indices.tolist(), found.epsilon_S, strict=True)
    ]
