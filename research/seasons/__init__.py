"""Seasons to play through the whole chain: simulated with known truth, and recorded ones."""
