"""From an image to what a network reads: decoding, fitting, and the way back."""
