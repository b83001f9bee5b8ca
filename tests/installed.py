"""Run from elsewhere with an installed wheel on the path: is all of it there?"""

import sys
from pathlib import Path

import keras_cbvit
from keras_cbvit.pretrained.sources import Folder, own_folder

root = Path(sys.argv[1]).resolve()
assert Path(keras_cbvit.__file__).resolve().is_relative_to(root), keras_cbvit.__file__
assert (own_folder() / "catalog.json").resolve().is_relative_to(root), own_folder()
for name in Folder(own_folder()).records():
    keras_cbvit.load_model(name)
keras_cbvit.ViTCB_Ti()
print(f"The wheel loads {keras_cbvit.list_weights()} from {own_folder().name}/.")
