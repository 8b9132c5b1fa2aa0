"""Corollary post-trains language models: train it, trust it, tune it."""

__version__ = "0.1.0"
