"""Mistakes of a config, found before training."""
