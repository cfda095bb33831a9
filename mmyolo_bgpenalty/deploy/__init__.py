"""Detectors for use without this package."""
