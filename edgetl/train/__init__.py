"""Transfer learning on the host: probe, fine-tuning, run folders. Needs the `train` extra."""
