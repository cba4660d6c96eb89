"""The trained detectors of a finished study, for the programs that score them anew."""

from __future__ import annotations

import pandas as pd

from puzzle_study.results import Results


def trained(results: Results) -> pd.DataFrame:
    """Return the rows of trials.csv of configurations that were trained to their end.

    Raises:
        UserError: the study has no tables yet.
    """
    trials: pd.DataFrame = results.table(results.trials_file)
    return trials[(trials["role"] == "configuration") & (trials["status"] == "finished")]
