"""Starting weights: where they lie, how they are fetched, read and stored."""

from edgetl.train.weights.load import assign, load_weights, restore_network, save_network
from edgetl.train.weights.places import find_weights, is_local, named_folder

__all__ = [
    "assign",
    "find_weights",
    "is_local",
    "load_weights",
    "named_folder",
    "restore_network",
    "save_network",
]
