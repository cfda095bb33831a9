"""The embedded set of solar panels."""
