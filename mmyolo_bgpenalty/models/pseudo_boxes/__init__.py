"""Which boxes of the teacher become pseudo-boxes."""
