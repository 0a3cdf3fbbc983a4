"""Kernels, each beside its exact reference."""
