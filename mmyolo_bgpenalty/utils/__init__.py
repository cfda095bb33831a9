"""Helpers that all other packages share. They import neither mmdet nor mmyolo."""
