"""What drives training."""
