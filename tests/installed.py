"""Run from elsewhere with an installed wheel on the path: is all of it there?"""

import sys
from pathlib import Path

import keras_cbvit
from keras_cbvit.pretrained.catalog import own_folder, read_catalog

root = Path(sys.argv[1]).resolve()
assert Path(keras_cbvit.__file__).resolve().is_relative_to(root), keras_cbvit.__file__
assert (own_folder() / "catalog.json").resolve().is_relative_to(root), own_folder()
for name in read_catalog(own_folder()):
    keras_cbvit.load_model(name)
keras_cbvit.ViTCB_Ti()
print(f"The wheel loads {keras_cbvit.list_weights()} from {own_folder().name}/.")
