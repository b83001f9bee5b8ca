"""What a worker process of `recipes.data.feed` runs first, by the path of this file.

multiprocessing would run the parent's main module here, and with it Keras and its
backend. Grain would import JAX where there is JAX, and an installed package imports
Keras before any of its modules. A worker needs none of them, and must not take a GPU.
"""

import importlib.util
import signal
import sys

import absl.logging

absl.logging.set_verbosity(absl.logging.ERROR)  # Grain warns where it finds no JAX
signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
for name in ("jax", "keras", "tensorflow", "torch"):
    sys.modules[name] = None  # type: ignore  # importing it is an error
if spec := importlib.util.find_spec("keras_cbvit"):
    # A package whose `__init__` is not run; its modules can be imported.
    sys.modules["keras_cbvit"] = importlib.util.module_from_spec(spec)
