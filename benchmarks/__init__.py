"""Offline benchmark harness."""
