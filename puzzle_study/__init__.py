"""Studies of Puzzle-AE: which configuration finds novelties, how stably, and under attack."""

__version__ = "0.1.0"
