"""Detectors: Puzzle-AE with its ablations, its peers, detectors on feature networks, and cheap references."""
