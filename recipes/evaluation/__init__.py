"""Evaluation of models on test sets, under occlusion and attacks, and by probes.

The command is `recipes.evaluate`. In Python, `measure` takes any Keras classifier of
images with values 0-255.
"""

from .measuring import measure

__all__ = ["measure"]
