"""Data sets in object stores are those on disks."""

import importlib.util
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from recipes.commands import parse
from recipes.data.feed import Feed
from recipes.data.fingerprints import dataset_fingerprint
from recipes.data.folders import MissingDatasetError
from recipes.data.records import Records
from recipes.data.sources import load_dataset
from recipes.options.classification import Data
from tests.make_tiny_tfds import FOLDER
from tests.recipes.data.buckets import Buckets, StoredBatches
from tests.recipes.data.test_records import builder

pytestmark = pytest.mark.any_backend


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder that is s3://bucket, as long as decoded images are not kept."""
    monkeypatch.setenv("BUCKETS", str(tmp_path))
    monkeypatch.setattr("recipes.data.images.MEMORY_BYTES", 0)
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def load(dataset, **options):
    return load_dataset(Data(dataset=str(dataset), image_size=(8, 8), **options))


def fill(folder):
    """Ten pictures of cats, twenty of dogs, and what is not used."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", ".cache"):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (8 + i, 9, 3), "uint8")
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    shutil.copytree(folder / "cat", folder / "dog" / "more")
    (folder / "dog" / "notes.txt").write_text("not used")


LAYOUTS = [["."], ["train", "test"]]


@pytest.mark.parametrize("parts", LAYOUTS)
def test_a_folder_in_a_store_is_the_one_on_a_disk(bucket, parts):
    for part in parts:
        fill(bucket / "pets" / part)
    found = []
    for folder in (bucket / "pets", "s3://bucket/pets"):
        with pytest.warns(UserWarning, match=f"^Not used in {folder}: ") as caught:
            found.append(load(folder))
        assert f"{len(parts)} .txt" in str(caught[0].message)
    one, other = found
    assert dataset_fingerprint(other) == dataset_fingerprint(one)
    assert other.class_names == one.class_names == ("cat", "dog")
    for split in ("train", "test"):
        here, there = getattr(one, split), getattr(other, split)
        np.testing.assert_array_equal(list(there.images), list(here.images))
        np.testing.assert_array_equal(there.labels, here.labels)
        assert there.images.name(0).startswith("s3://bucket/pets/")


@pytest.fixture
def pets(bucket):
    fill(bucket / "pets")
    with warnings.catch_warnings(action="ignore"):
        return load("s3://bucket/pets")


@pytest.mark.slow
def test_worker_processes_read_a_store(pets):
    steps = StoredBatches(pets.train, 2, batch_size=8)
    here = [steps[step] for step in range(2)]
    there = Feed(steps, 2).read(0, 2)
    for one, other in zip(here, there, strict=True):
        for expected, found in zip(one, other, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_an_object_that_is_gone_is_no_broken_picture(bucket, pets):
    shutil.rmtree(bucket / "pets")
    with pytest.raises(OSError, match=r"s3://bucket/pets/.*png cannot be read \("):
        StoredBatches(pets.train, 2, batch_size=8)[0]


def test_tfds_is_read_from_a_store(bucket):
    without_index = shutil.ignore_patterns("*.npz")
    shutil.copytree(FOLDER, bucket / "tfds", ignore=without_index)
    one, other = (
        load("tiny", data_dir=FOLDER),
        load("tiny", data_dir="s3://bucket/tfds"),
    )
    assert dataset_fingerprint(other) == dataset_fingerprint(one)
    records = other.train.images.encoded
    assert records.name(39).startswith("s3://bucket/tfds/tiny/1.0.0/tiny-train.tfrec")
    Buckets.requests.clear()
    np.testing.assert_array_equal(list(other.train.images), list(one.train.images))
    lengths = [end - start for _, start, end in Buckets.requests]
    assert lengths == records.lengths.tolist()  # not a byte more
    # The index is there now: what the files hold is not asked for.
    assert len(list(bucket.glob("tfds/tiny/1.0.0/keras_cbvit-*.npz"))) == 2
    Buckets.requests.clear()
    again = load("tiny", data_dir="s3://bucket/tfds")
    np.testing.assert_array_equal(again.train.labels, one.train.labels)
    assert [path.rpartition(".")[2] for path, *_ in Buckets.requests] == ["npz", "npz"]


def test_a_url_comes_whole_from_the_command_line():
    arguments = ["--data-dir", "s3://bucket/tfds"]
    assert parse("train", Data, "", arguments).data_dir == "s3://bucket/tfds"


def test_array_record_in_a_store_is_refused():
    found = builder("s3://bucket", number=0)
    found.info.splits["train"].filepaths = ["s3://bucket/a.array_record-0-of-1"]
    with pytest.raises(ValueError, match="only TFRecord files are supported"):
        Records(found, "train")


def test_a_folder_that_is_not_in_the_store_is_missing(bucket):
    with pytest.raises(
        MissingDatasetError, match=r"s3://bucket/nosuch does not exist\."
    ):
        load("s3://bucket/nosuch")


@pytest.mark.parametrize("option", ["dataset", "data_dir"])
def test_a_url_that_cannot_be_read_says_what_would_work(option):
    options = {"dataset": "tiny", option: "memory://bucket/pets"}
    with pytest.raises(
        ValueError, match=r"URLs must start with gs://, s3://, az://, hf://"
    ):
        load(**options)


@pytest.mark.skipif(importlib.util.find_spec("gcsfs"), reason="gcsfs is there")
@pytest.mark.parametrize("option", ["dataset", "data_dir"])
def test_a_store_without_its_package_names_it(option):
    options = {"dataset": "tiny", option: "gs://bucket/pets"}
    with pytest.raises(OSError, match=r"gs://bucket/pets cannot be read \(.*gcsfs"):
        load(**options)
