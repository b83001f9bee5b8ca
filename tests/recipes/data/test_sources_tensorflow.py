"""What is read without TensorFlow is what TFDS reads with it."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from recipes.data.sources import load_dataset
from recipes.options.classification import Data
from tests.make_tiny_tfds import FOLDER


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("memory", [2 << 30, 0])
def test_records_are_what_tfds_gives(monkeypatch, memory, split):
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", memory)
    data = Data(dataset="tiny", data_dir=FOLDER, image_size=(8, 8))
    found = getattr(load_dataset(data), split)
    one_file_at_a_time = tfds.ReadConfig(interleave_cycle_length=1)
    expected = tfds.load(
        "tiny", split=split, data_dir=FOLDER, read_config=one_file_at_a_time
    )
    images, labels = zip(
        *((e["image"], e["label"]) for e in expected.as_numpy_iterator()), strict=True
    )
    np.testing.assert_array_equal(np.stack(list(found.images)), images)
    np.testing.assert_array_equal(found.labels, labels)
