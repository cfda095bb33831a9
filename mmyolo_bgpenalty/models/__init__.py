"""Losses, assigner, heads, detectors and data preprocessors."""
