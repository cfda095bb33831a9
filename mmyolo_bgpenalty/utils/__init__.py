"""Shared by all other packages. Imports neither mmdet nor mmyolo."""
