"""Benchmarks, each beside a peer or a limit of the same run."""
