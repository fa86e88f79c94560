"""Benchmarks, each beside a reference or a limit of the same run."""
