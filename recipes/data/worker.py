"""Main module of the worker processes of `recipes.data.feed`, run by its path.

It prevents imports that workers do not require and that might occupy a GPU:
multiprocessing would import the parent's main module and with it Keras and its backend;
Grain would import JAX; `keras_cbvit` would import Keras; and TFDS would import
TensorFlow, or print that it is missing.
"""

import importlib.util
import signal
import sys
import warnings
from multiprocessing import resource_tracker

import absl.logging
from PIL import Image

absl.logging.set_verbosity(absl.logging.ERROR)  # Grain warns if JAX is missing
# Decoding raises an error that names an image with too many pixels.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# The parent owns and removes the shared memory.
resource_tracker.register = lambda *_: None
signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent terminates its workers
for name in ("jax", "keras", "tensorflow", "torch"):
    sys.modules[name] = None  # type: ignore  # importing it is an error
# Packages whose modules can be imported without running `__init__`.
for name in ("keras_cbvit", "tensorflow_datasets"):
    if spec := importlib.util.find_spec(name):
        sys.modules[name] = importlib.util.module_from_spec(spec)
