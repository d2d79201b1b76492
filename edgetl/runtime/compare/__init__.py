"""Candidates side by side on real images."""
