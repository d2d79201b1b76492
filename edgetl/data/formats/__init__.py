"""Data set formats: class folders, CSV tables."""
