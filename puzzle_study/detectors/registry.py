"""Every detector by name. To add one: a module with a :class:`~puzzle_study.detectors.base.Detector` and a line here.

Other packages add theirs by the entry point group ``puzzle_study.detectors``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from puzzle_study.registry import Registry

if TYPE_CHECKING:
    from puzzle_study.detectors.base import Detector

DETECTORS: Registry[type[Detector]] = Registry(
    "detector",
    {
        "puzzle_ae": "puzzle_study.detectors.puzzle_ae.detector:PuzzleDetector",
        "untrained": "puzzle_study.detectors.puzzle_ae.untrained:Untrained",
        "nearest_neighbour": "puzzle_study.detectors.nearest_neighbour:NearestNeighbour",
        "pca": "puzzle_study.detectors.pca:PCA",
        "one_class_svm": "puzzle_study.detectors.one_class_svm:OneClassSVM",
        "ae_l2": "puzzle_study.detectors.ae_l2:AEL2",
        "ae_ssim": "puzzle_study.detectors.ae_ssim:AESSIM",
        "arae": "puzzle_study.detectors.arae:ARAE",
        "dae": "puzzle_study.detectors.dae:DAE",
        "dsvdd": "puzzle_study.detectors.dsvdd:DeepSVDD",
        "feature_knn": "puzzle_study.detectors.feature_knn:FeatureKNN",
        "gt": "puzzle_study.detectors.gt:GT",
        "jigsaw": "puzzle_study.detectors.jigsaw:Jigsaw",
        "lsa": "puzzle_study.detectors.lsa:LSA",
        "ocgan": "puzzle_study.detectors.ocgan:OCGAN",
        "padim": "puzzle_study.detectors.padim:PaDiM",
        "patchcore": "puzzle_study.detectors.patchcore:PatchCore",
        "rotnet": "puzzle_study.detectors.rotnet:RotNet",
    },
    group="puzzle_study.detectors",
)
"""Classes of :class:`~puzzle_study.detectors.base.Detector` by their names in study files, other packages' behind."""
COMPOSED: Registry[type[Detector]] = Registry("detector", {"ensemble": "puzzle_study.detectors.ensemble:Ensemble"})
"""Detectors that are made of others: they can be saved and loaded, and no study trains them."""
