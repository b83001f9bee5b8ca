"""What needs TensorFlow is not collected on the other backends, which have none."""

import keras

collect_ignore = []
if keras.backend.backend() != "tensorflow":
    collect_ignore = [
        "data/test_sources_tensorflow.py",
        "training/test_devices_tensorflow.py",
    ]
