"""The report: false alarms and misses of one or more detectors, as one HTML file."""
