"""Trains, measures and prints what the paper's tables and figures show.

    python -m recipes.paper list
    python -m recipes.paper table5 --dataset cifar10 --seeds 0 1 [--option value ...]

A model that several of them need is trained once. Runs that were interrupted go on,
runs that are complete are taken as they are; all are in the folder of `--runs`.
Where that holds what was measured, config.json, log.csv and measures.json of each run
are enough to print and draw it again.
"""
