"""The colours of figures. The page's style sheet has the same under names, and others for a dark page."""

from __future__ import annotations

PALETTE = (
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"),
    *("#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9"),
)
"""Seaborn's palette for readers who are colour-blind."""
GREY = "#767676"
INK = "#262626"
"""Of words and axes."""
