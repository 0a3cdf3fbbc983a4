"""Requests to come: loaders of public traces, generators, named settings."""
