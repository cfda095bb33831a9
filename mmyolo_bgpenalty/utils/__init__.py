"""What all others share. Imports neither mmdet nor mmyolo."""
