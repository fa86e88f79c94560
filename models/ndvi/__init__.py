"""The gap-free daily NDVI: networks conditioned on clear views, their cached states, curves, training."""
