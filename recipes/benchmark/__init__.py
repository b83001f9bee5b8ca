"""Measures how fast this package is beside others, on the same machine in the same run.

    python -m recipes.benchmark input --data-dir FOLDER [--option value ...]
    python -m recipes.benchmark model [--option value ...]
    python -m recipes.benchmark profile [--option value ...]

The others are measured where they are installed: in this environment, or in those of
`--peer-python`.
"""
