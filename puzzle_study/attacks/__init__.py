"""White-box and black-box attacks on anomaly scores (paper, section 4.3), and reasons to distrust them."""
