"""Kinds of pseudo-anomalies, one module each: ways in which normal images are spoiled."""
