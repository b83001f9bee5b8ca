"""Experiments, one per file, built by its function `config()`."""
