"""Checkpoint files: reading them safely, and starting a run from them."""
