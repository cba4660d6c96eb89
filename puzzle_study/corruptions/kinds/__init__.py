"""The corruptions, a family to a module."""
