"""Scripts that regenerate every published figure, and their results."""
