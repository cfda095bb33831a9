"""Checks of files: json files and their boxes, images, and the weights to start from."""
