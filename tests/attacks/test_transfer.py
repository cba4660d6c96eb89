"""Attacked against scoring aggregation, and one detector's attack on another."""

from __future__ import annotations

import pytest
import torch

from puzzle_study.attacks.specs import attack_spec
from puzzle_study.attacks.transfer import aggregation_matrix, score_all, transferred

from . import planted
from .planted import attacked, fgsm


def test_matrix_holds_adaptive_attacks_on_its_diagonal() -> None:
    detector = planted.puzzle_detector(count=5)
    x_NCHW, labels = planted.images(6), torch.tensor([False] * 4 + [True] * 2)
    specs = [attack_spec("attack1", method, epsilon=0.05, steps=3, target="both") for method in ("fgsm", "pgd")]
    cells = aggregation_matrix(detector, x_NCHW, labels, specs)
    assert len(cells) == 2 * 3 * 3
    assert [cell.spec for cell in cells] == [specs[0]] * 9 + [specs[1]] * 9
    by_name = {(cell.spec.method, cell.attacked, cell.scoring): cell for cell in cells}
    for method in ("fgsm", "pgd"):
        for scoring in ("min", "avg", "max"):
            seen = {name: by_name[method, name, scoring] for name in ("min", "avg", "max")}
            change = {name: torch.where(labels, -1, 1) * (c.scores - c.clean_scores) for name, c in seen.items()}
            for name, cell in seen.items():
                torch.testing.assert_close(cell.clean_scores, seen[scoring].clean_scores)
                assert change[name].mean() <= change[scoring].mean() + 1e-4
    avg = by_name["fgsm", "avg", "avg"]
    (direct,) = attacked(detector, x_NCHW, specs[0], labels=labels.tolist())
    torch.testing.assert_close(avg.scores, direct.scores, rtol=1e-5, atol=0)


def test_transfer_to_another_detector() -> None:
    source, target = planted.Linear(seed=0), planted.Linear(seed=1)
    x_NCHW = planted.images(3, low=51, high=204)
    (result,) = attacked(source, x_NCHW, fgsm(), labels=[False, True, False])
    scores = transferred(result, target, x_NCHW)
    gain = 0.05 * (source.weight.sign() * target.weight).sum()
    torch.testing.assert_close(scores - score_all(target, x_NCHW), gain * torch.tensor([1, 0, 1]), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(transferred(result, source, x_NCHW), result.scores)


def test_transfer_needs_all_images() -> None:
    x_NCHW = planted.images(3)
    (result,) = attacked(planted.Linear(), x_NCHW, fgsm(), keep=1)
    with pytest.raises(ValueError, match="3 images were attacked and 1 kept; run with keep=None"):
        transferred(result, planted.Linear(), x_NCHW)
