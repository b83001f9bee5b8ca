"""What a worker process of `recipes.data.feed` runs first, by the path of this file.

multiprocessing would run the parent's main module here, and with it Keras and its
backend. Grain would import JAX where there is JAX, an installed package imports Keras
before any of its modules, and TFDS TensorFlow, or prints that it is not there. A worker
needs none of them, and must not take a GPU.
"""

import importlib.util
import signal
import sys
import warnings
from multiprocessing import resource_tracker

import absl.logging
from PIL import Image

absl.logging.set_verbosity(absl.logging.ERROR)  # Grain warns where it finds no JAX
# An image of too many pixels is refused by its name.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Shared memory is the parent's, who removes it.
resource_tracker.register = lambda *_: None
signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
for name in ("jax", "keras", "tensorflow", "torch"):
    sys.modules[name] = None  # type: ignore  # importing it is an error
# Packages whose `__init__` is not run; their modules can be imported.
for name in ("keras_cbvit", "tensorflow_datasets"):
    if spec := importlib.util.find_spec(name):
        sys.modules[name] = importlib.util.module_from_spec(spec)
