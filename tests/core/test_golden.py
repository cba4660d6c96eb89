"""A golden run: a change that claims to be speed only, or no change of computation, leaves these scores as they are.

To record anew after a change that is meant to change numbers, and say so in the commit:
    python -m tests.core.test_golden
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from puzzle_study import config, datasets
from puzzle_study.detectors.puzzle_ae import puzzles
from puzzle_study.detectors.puzzle_ae.detector import PuzzleDetector, Shape
from puzzle_study.detectors.puzzle_ae.training import Trainer

GOLDEN = Path(__file__).with_name("golden.json")
SHOWN = 12


def golden_scores() -> np.ndarray:
    """Two epochs on digit 3 at base 4, every part of the method on, in float32 on one thread of the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = config.Settings.model_validate(
            {
                "data": {"name": "digits", "normal_classes": ["3"]},
                "model": {"base_channels": 4},
                "train": {"batch_size": 32, "precision": "float32", "adversary": {"alpha": 0.05}},
            }
        )
        task = datasets.load_task(settings.data, datasets.task_specs(settings.data)[0])
        puzzle_set = puzzles.PuzzleSet("jigsaw", 2, puzzles.all_permutations())
        device = torch.device("cpu")
        trainer = Trainer(
            settings, puzzle_set, channels=1, height=16, width=16, seed=0, device=device, precision="float32"
        )
        for _ in range(2):
            trainer.epoch(task.train)
        detector = PuzzleDetector(
            trainer.network, puzzle_set, shape=Shape(1, 16, 16, 4), score=config.Score(), precision="float32"
        )
        detector.calibrate(task.validation)
        return detector.scores(detector.error_matrix(task.test[:200])).numpy()
    finally:
        torch.set_num_threads(threads)


def machine() -> str:
    """What the last bits of a convolution depend on."""
    return f"torch {torch.__version__.split('+')[0]}, {torch.backends.cpu.get_cpu_capability()}"


def fingerprint(scores: np.ndarray) -> str:
    return hashlib.sha256(scores.astype("<f4").tobytes()).hexdigest()


def test_the_golden_run_gives_the_recorded_scores() -> None:
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    scores = golden_scores()
    np.testing.assert_allclose(scores[:SHOWN], recorded["scores"], rtol=1e-3)
    if machine() == recorded["machine"]:
        assert fingerprint(scores) == recorded["sha256"]


if __name__ == "__main__":
    found = golden_scores()
    content = {"machine": machine(), "sha256": fingerprint(found), "scores": [float(x) for x in found[:SHOWN]]}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
