"""Benchmarks against other packages, on the same machine in the same run."""
