"""Files of LoRA: what is in them, on what they are loaded, and what is refused."""

import json
import os
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit import hdf5
from tests.models.test_lora import fill_lora, frozen_model
from tests.models.test_quantization import upernet
from tests.tiny import (
    QUANTIZED_FILES,
    assert_same_values,
    fill,
    images,
    predict,
    tiny,
    train,
    values,
)

pytestmark = pytest.mark.any_backend


def tuned(model, **arguments):
    keras_cbvit.enable_lora(model, **{"rank": 2, **arguments})
    return fill_lora(model)


def saved(folder, model):
    path = folder / "model.lora.h5"
    keras_cbvit.save_lora_weights(model, path)
    return path


def test_a_file_has_what_was_trained_and_no_more(tmp_path):
    model = fill(tiny(broadcast="cbs"))
    arguments = {"targets": ["qkv"], "blocks": [1], "alpha": 3, "train_scale": True}
    path = saved(tmp_path, tuned(model, **arguments))
    with h5py.File(path) as file:
        found = []
        file.visititems(lambda name, item: found.append((name, item)))
        arrays = {name: item[()] for name, item in found if hasattr(item, "shape")}
    record = json.loads(arrays.pop("record").tobytes())
    qkv = model.layers_by_path()["block_1/attention/qkv"]
    expected = {
        "block_1/attention/qkv/lora_kernel_a": qkv.lora_kernel_a,
        "block_1/attention/qkv/lora_kernel_b": qkv.lora_kernel_b,
        "block_0/mlp/context_broadcast/scale": model.weights_by_name()[
            "block_0/mlp/context_broadcast/scale"
        ],
        "block_1/mlp/context_broadcast/scale": model.weights_by_name()[
            "block_1/mlp/context_broadcast/scale"
        ],
        "head/0/kernel": model.head.weights[0],
        "head/1/bias": model.head.weights[1],
    }
    assert_same_values(arrays, {name: w.numpy() for name, w in expected.items()})
    assert record["rank"] == 2
    assert record["alpha"] == 3
    assert record["targets"] == ["qkv"]
    assert record["blocks"] == [1]
    assert record["architecture"] == model.spec.to_json()


SCRIPT = """
import sys
import numpy as np
import keras_cbvit

model = keras_cbvit.load_model(sys.argv[1])
keras_cbvit.load_lora_weights(model, sys.argv[2])
images = np.load(sys.argv[3])
np.save(sys.argv[4], model.predict(images, verbose=0))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@QUANTIZED_FILES
def test_a_new_process_predicts_the_same(tmp_path):
    model = fill(tiny())
    model.quantize("int8")
    model.save(tmp_path / "base.keras")
    saved(tmp_path, tuned(model))
    np.save(tmp_path / "images.npy", images(model))
    names = ("base.keras", "model.lora.h5", "images.npy", "found.npy")
    subprocess.run(
        [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name in names)],
        check=True,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
    )
    expected = model.predict(images(model), verbose=0)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)


def test_training_goes_on_from_a_file(tmp_path):
    model = tuned(fill(tiny()))
    path = saved(tmp_path, model)
    other = fill(tiny())
    other.trainable = False
    keras_cbvit.load_lora_weights(other, path)
    for each in (model, other):
        keras.utils.set_random_seed(0)  # of the order of the images
        train(each)
    assert_same_values(values(other), values(model))


def test_the_head_and_its_class_names_are_those_of_the_file(tmp_path):
    model, base = fill(tiny()), fill(tiny())
    model.class_names = ("a", "b", "c")
    base.head.kernel.assign(base.head.kernel + 1)
    keras_cbvit.load_lora_weights(base, saved(tmp_path, tuned(model)))
    np.testing.assert_array_equal(predict(base), predict(model))
    assert base.class_names == ("a", "b", "c")


def test_lora_of_the_same_arguments_is_replaced(tmp_path):
    model, other = tuned(fill(tiny())), tuned(fill(tiny()))
    fill_lora(other, seed=9)
    keras_cbvit.load_lora_weights(other, saved(tmp_path, model))
    assert_same_values(values(other), values(model))


def test_the_precision_may_be_another(tmp_path):
    model, base = fill(tiny()), fill(tiny(dtype="mixed_bfloat16", remat=True))
    keras_cbvit.load_lora_weights(base, saved(tmp_path, tuned(model)))
    assert_same_values(values(base), values(model))


def pyramid_of(blocks):
    vit = tiny(depth=5, include_top=False, classes=None, pooling=None)
    backbone = keras_cbvit.feature_pyramid(fill(vit), blocks)
    return keras_cbvit.SegmentationModel(backbone, 3, 4)


def quantized():
    model = fill(tiny())
    model.quantize("int8", filters="qkv")
    return model


FOREIGN = {
    "was trained on other weights than those of": (
        lambda: fill(tiny()),
        lambda: fill(tiny(), seed=1),
    ),
    "with the same quantization": (lambda: fill(tiny()), quantized),
    "is for a model with depth=2, ": (
        lambda: fill(tiny()),
        lambda: fill(tiny(depth=3)),
    ),
    "is for a model with context='mean', ": (
        lambda: fill(tiny(broadcast="cb")),
        lambda: fill(tiny(broadcast="cb", context="max")),
    ),
    "head/0/kernel has shape (16, 3) in the file and (16, 5) in the model": (
        lambda: fill(tiny()),
        lambda: fill(tiny(classes=5)),
    ),
    "head/0/kernel has shape (16, 3) in the file and none in the model": (
        lambda: fill(tiny()),
        lambda: fill(tiny(classes=None, include_top=False)),
    ),
    "is for a model with blocks_of_pyramid=[0, 1, 2, 3]": (
        lambda: pyramid_of(range(4)),
        lambda: pyramid_of(range(1, 5)),
    ),
    "already has LoRA with rank=3": (
        lambda: fill(tiny()),
        lambda: tuned(fill(tiny()), rank=3),
    ),
}


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(m, marks=[QUANTIZED_FILES] if "quantiz" in m else [])
        for m in FOREIGN
    ],
)
def test_a_file_of_another_model_is_refused_and_changes_nothing(message, tmp_path):
    build, build_other = FOREIGN[message]
    path = saved(tmp_path, tuned(build()))
    other = build_other()
    frozen_model(other)
    before = values(other)
    with pytest.raises(ValueError) as error:
        keras_cbvit.load_lora_weights(other, path)
    assert message in str(error.value)
    assert str(error.value).count(".\n") == 0
    assert_same_values(values(other), before)
    assert not other.trainable


def test_lora_in_other_blocks_is_refused_as_lora(tmp_path):
    path = saved(tmp_path, tuned(fill(tiny()), blocks=[0]))
    other = tuned(fill(tiny()), blocks=[1])
    with pytest.raises(ValueError, match=r"has LoRA .* and blocks=\(1,\); call"):
        keras_cbvit.load_lora_weights(other, path)


def test_a_damaged_file_is_refused_and_changes_nothing(tmp_path):
    model, other = tuned(fill(tiny())), fill(tiny())
    path = saved(tmp_path, model)
    content, before = path.read_bytes(), values(other)
    damaged = [content[: len(content) // 2], b"", b"PK" + content[2:]]
    arrays = [weight.numpy() for weight in model.trainable_weights]
    places = [content.index(array.tobytes()) for array in arrays]
    random = np.random.default_rng(0)
    for place in (*places, *random.integers(0, len(content), 40)):
        changed = bytearray(content)
        changed[place] ^= 0x55
        damaged.append(bytes(changed))
    refused = 0
    for each in damaged:
        path.write_bytes(each)
        try:
            keras_cbvit.load_lora_weights(other, path)
        except ValueError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
            assert_same_values(values(other), before)
            refused += 1
        else:  # a byte that HDF5 does not read
            assert_same_values(values(other), values(model))
            other = fill(tiny())
    assert refused >= 3 + len(places)


def change_record(path, **changes):
    """Writes a file with another record, whose digest is right."""
    with h5py.File(path, "a") as file:
        record = json.loads(file["record"][()].tobytes())
        del file["record"]
        text = json.dumps({**record, **changes}).encode()
        file["record"] = np.frombuffer(text, "uint8")
    hdf5.sign(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": "2"},
        {"blocks": 1},
        {"blocks": [7]},
        {"targets": ["fc1"]},
        {"architecture": {"depth": -1}},
        {"architecture": 3},
        {"class_names": 5},
        {"other": 1},
    ],
    ids=str,
)
def test_a_record_that_makes_no_sense_is_refused(changes, tmp_path):
    path = saved(tmp_path, tuned(fill(tiny())))
    change_record(path, **changes)
    other = fill(tiny())
    before = values(other)
    with pytest.raises(ValueError, match="model.lora.h5"):
        keras_cbvit.load_lora_weights(other, path)
    assert_same_values(values(other), before)


def test_what_is_no_file_of_lora_is_refused(tmp_path):
    model = fill(tiny())
    with pytest.raises(ValueError, match="vit has no LoRA to save"):
        keras_cbvit.save_lora_weights(tiny(name="vit"), tmp_path / "a.lora.h5")
    for function in (keras_cbvit.save_lora_weights, keras_cbvit.load_lora_weights):
        with pytest.raises(ValueError, match="must end in .lora.h5"):
            function(model, tmp_path / "a.weights.h5")
    with pytest.raises(FileNotFoundError, match="a.lora.h5 does not exist"):
        keras_cbvit.load_lora_weights(model, tmp_path / "a.lora.h5")
    model.save_weights(tmp_path / "a.weights.h5")
    os.rename(tmp_path / "a.weights.h5", tmp_path / "a.lora.h5")
    with pytest.raises(ValueError, match="a.lora.h5 is damaged or not a weights"):
        keras_cbvit.load_lora_weights(model, tmp_path / "a.lora.h5")
    with pytest.raises(FileNotFoundError, match="cannot be written"):
        keras_cbvit.save_lora_weights(tuned(model), tmp_path / "none" / "a.lora.h5")


def test_a_base_that_is_trained_too_is_refused(tmp_path):
    model = tuned(fill(tiny()))
    keras_cbvit.unfreeze(model)
    with pytest.raises(ValueError, match="is trainable as well, so LoRA alone"):
        saved(tmp_path, model)
    assert not any(tmp_path.iterdir())


def test_batch_statistics_of_the_head_are_in_the_file(tmp_path):
    model = tuned(upernet())
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).uniform(0, 255, (2, 16, 24, 3)).astype("float32")
    model.fit(x, np.zeros((2, 16, 24)), verbose=0)
    other = upernet()
    keras_cbvit.load_lora_weights(other, saved(tmp_path, model))
    np.testing.assert_array_equal(predict(other, x), predict(model, x))
