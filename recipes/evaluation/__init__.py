"""How good a classifier is: on which images, under which conditions, by which measure.

`recipes.evaluate` is the command. In Python, `measure` takes any Keras classifier of
images of values 0-255.
"""

from .measuring import measure

__all__ = ["measure"]
