"""The solar set: a synthetic data set of solar panels, which this package generates."""
