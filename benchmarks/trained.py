"""The trained detectors of a finished study, for the programs that score them anew."""

from __future__ import annotations

import pandas as pd

from puzzle_study.results import Results
from puzzle_study.trials.spec import PUZZLE_AE


def trained(results: Results) -> pd.DataFrame:
    """Return the rows of trials.csv whose Puzzle-AE was trained to its end.

    Raises:
        UserError: the study has no tables yet.
    """
    trials = results.table(results.trials_file)
    return trials[(trials["detector"] == PUZZLE_AE) & (trials["status"] == "finished")]
