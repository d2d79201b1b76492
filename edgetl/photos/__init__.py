"""Photos of a data folder: found, checked, hashed, grouped by likeness, and split."""
