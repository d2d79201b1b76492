"""What is exported, and the samples that judge and calibrate."""
