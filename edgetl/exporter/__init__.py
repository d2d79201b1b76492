"""From a finished run to a bundle of gated, measured candidates. Needs the `export` extra."""
