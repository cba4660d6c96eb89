"""The detector in use: find it, stream image files through it, judge their scores, show where the errors are."""
