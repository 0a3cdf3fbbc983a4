"""Sweeps: which simulations there are, the search for the most load. Judges and draws nothing."""
