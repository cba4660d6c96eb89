"""What is known of each data set, one module each; the registry is in :mod:`puzzle_study.datasets.catalogue`."""
