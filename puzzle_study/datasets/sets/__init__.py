"""The description of each data set, one module each; the registry is in :mod:`puzzle_study.datasets.catalogue`."""
