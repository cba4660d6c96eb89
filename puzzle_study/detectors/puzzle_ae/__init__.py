"""Puzzle-AE: a U-Net that solves jigsaw puzzles of normal images under adversarial noise (Salehi et al. 2020)."""
