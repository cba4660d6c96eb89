"""scikit-learn's own checks of an estimator.

Their data have 1 to 20 features, most of them outside [0, 1]: no images. Two runs cover what applies: ``PuzzleAE``
itself, where every check that must fit these data is expected to fail for this one reason, and ``PuzzleAE`` with
nothing changed but the way from features to pixels, where all checks pass but the contamination of the training set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.utils import Tags
from sklearn.utils.estimator_checks import check_estimator

from puzzle_study import PuzzleAE

TINY: dict[str, Any] = {
    "model": {"base_channels": 1, "initialisation": "he"},
    "train": {"epochs": 1, "lambda": 0.0, "precision": "float32"},
    "puzzle.permutations": "two_swapped",
}
NO_IMAGES = "its data are no images: too few features, or values outside [0, 1]; TiledFeatures runs this check"
OF_TRAINING = "contamination is a share of new normal images, by held-out validation images, not of the training images"
NEED_IMAGES = (
    "check_classifier_data_not_an_array",
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
    "check_dtype_object",
    "check_estimators_dtypes",
    "check_estimators_fit_returns_self",
    "check_estimators_nan_inf",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_fit2d_predict1d",
    "check_fit_check_is_fitted",
    "check_fit_idempotent",
    "check_fit_score_takes_y",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_pipeline_consistency",
    "check_readonly_memmap_input",
)
CONTAMINATION = ("check_outliers_fit_predict", "check_outliers_train")


class TiledFeatures(PuzzleAE):
    """Features of any number and range, squashed into [0, 1] and tiled over an image of 16×16 pixels."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = False
        return tags

    def _arranged(self, rows_ND: npt.NDArray[Any], *, reset: bool) -> npt.NDArray[Any]:
        pixels_ND = 1 / (1 + np.exp(-rows_ND.astype(np.float64)))
        return np.resize(pixels_ND.T, (256, len(rows_ND))).T.reshape(-1, 1, 16, 16)


def run(estimator: PuzzleAE, expected: dict[str, str]) -> dict[str, set[str]]:
    """Run all checks; return the names of those that passed, failed as expected, or were skipped."""
    done = check_estimator(estimator, expected_failed_checks=expected, on_skip=None)
    by_status: dict[str, set[str]] = {}
    for result in done:
        by_status.setdefault(result["status"], set()).add(result["check_name"])
    return by_status


def test_the_checks_that_need_no_images_pass() -> None:
    found = run(PuzzleAE(settings=TINY), dict.fromkeys((*NEED_IMAGES, *CONTAMINATION), NO_IMAGES))
    assert found["xfail"] == {*NEED_IMAGES, *CONTAMINATION}
    assert len(found["passed"]) > 20
    assert found.get("skipped", set()) <= {"check_array_api_input"}


@pytest.mark.slow
def test_all_checks_but_that_of_contamination_pass_where_features_become_pixels() -> None:
    found = run(TiledFeatures(settings=TINY), dict.fromkeys(CONTAMINATION, OF_TRAINING))
    assert found["xfail"] == set(CONTAMINATION)
    assert found["passed"] > set(NEED_IMAGES)
    assert found.get("skipped", set()) <= {"check_array_api_input"}
