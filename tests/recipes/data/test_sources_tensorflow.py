"""What is read without TensorFlow is what TFDS reads with it."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from recipes.data import pictures
from recipes.data.sources import load_dataset
from recipes.options.classification import Data
from tests.make_tiny_tfds import FOLDER


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("memory", [2 << 30, 0])
def test_both_readers_give_what_tfds_gives(monkeypatch, memory, split):
    monkeypatch.setattr(pictures, "MEMORY_BYTES", memory)
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


def test_mock_data_of_tfds_stands_for_imagenet():
    data = Data(
        dataset="imagenet2012",
        data_dir=FOLDER,
        test_split="validation",
        image_size=(8, 8),
    )
    # The splits are those of the files there, the pictures are TFDS's own.
    with tfds.testing.mock_data(num_examples=7, data_dir=FOLDER):
        dataset = load_dataset(data)
    assert len(dataset.class_names) == 1000
    for split in (dataset.train, dataset.test):
        assert split.images.shape == (7, 8, 8, 3)
        assert split.images.std() > 10
        assert len(set(split.labels)) > 1
