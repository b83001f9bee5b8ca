"""Writes a model of a file on this process's backend, for `export_model` on another.

python -m keras_cbvit.export.write FORMAT MODEL FILE
"""

import sys
from pathlib import Path

from keras_cbvit.export.formats import FORMATS
from keras_cbvit.pretrained.loading import load_model

if __name__ == "__main__":
    format, model, file = sys.argv[1:]
    FORMATS[format].write(load_model(Path(model)), Path(file))
