"""Find, check, hash, group and split the samples of a data set."""
