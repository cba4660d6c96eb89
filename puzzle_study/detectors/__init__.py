"""Detectors: Puzzle-AE with its ablations, and the references that cost nothing."""
