"""Checks of settings: their names, and lengths that must fit into the run."""
