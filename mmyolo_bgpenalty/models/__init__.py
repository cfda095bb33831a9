"""What is learnt: losses, heads, detectors."""
