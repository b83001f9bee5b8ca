"""Exports a model file in a subprocess of `export_model` with another backend.

python -m keras_cbvit.export.write FORMAT MODEL FILE FAILURE

FAILURE is a JSON file to write the reason of a failure to.
"""

import json
import sys
from pathlib import Path

from keras_cbvit.export.formats import FORMATS
from keras_cbvit.pretrained.loading import load_model

if __name__ == "__main__":
    format, model, file, failure = sys.argv[1:]
    try:
        FORMATS[format].write(load_model(Path(model)), Path(file))
    except Exception as error:  # each exporter raises its own types
        why = {"reason": str(error), "of_the_disk": isinstance(error, OSError)}
        Path(failure).write_text(json.dumps(why))
        raise
