"""Simulated and recorded seasons, the experiments of both papers, benchmarks; the product never imports it."""
