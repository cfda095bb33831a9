"""The solar set: the embedded data set of solar panels."""
