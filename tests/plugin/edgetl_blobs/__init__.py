"""Find one bright blob in each photo: its box, and which kind it is."""
