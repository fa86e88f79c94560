"""Seasons to stream through the whole chain: simulated with known truth, and recorded ones."""
