"""Using a detector: find it, score image files in chunks, interpret their scores, show where the errors are."""
