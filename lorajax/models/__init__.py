"""Base model families, one file each, as Flax NNX modules."""
