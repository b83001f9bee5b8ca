import io
import json
import random
import resource
import zipfile

import h5py
import keras
import numpy as np
import pytest

import keras_cbvit
from tests.tiny import assert_same_values, fill, values

SMALL = {
    "input_shape": (16, 16, 3),
    "patch_size": 8,
    "classes": 7,
    "hidden_dim": 16,
    "depth": 1,
    "num_heads": 2,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model and its files, by their endings."""
    folder = tmp_path_factory.mktemp("saved")
    model = fill(keras_cbvit.ViTCB(**SMALL), 0)
    model.save(folder / "good.keras")
    model.save_weights(folder / "good.weights.h5")
    return model, folder


def load(path):
    if path.suffix == ".h5":
        return keras_cbvit.ViTCB(weights=path, **SMALL)
    return keras_cbvit.ViTCB(weights=path)


def sector(content, chance):
    start = chance.randrange(len(content) - 512)
    content[start : start + 512] = chance.randbytes(512)


def insertion(content, chance):
    place = chance.randrange(len(content))
    content[place:place] = chance.randbytes(1)


def truncation(content, chance):
    del content[chance.randrange(len(content)) :]


@pytest.mark.parametrize("damage", [sector, insertion, truncation])
@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
@pytest.mark.any_backend
def test_a_damaged_file_is_refused_or_gives_the_same_weights(
    ending, damage, saved, tmp_path
):
    model, folder = saved
    chance = random.Random(0)
    path = tmp_path / f"damaged{ending}"
    refused = 0
    for _ in range(20):
        content = bytearray((folder / f"good{ending}").read_bytes())
        damage(content, chance)
        path.write_bytes(content)
        try:
            loaded = load(path)
        except ValueError as error:
            assert str(path) in str(error)
            assert len(str(error)) < 1000
            refused += 1
        else:
            assert_same_values(values(loaded), values(model))
    assert refused >= 15


def test_a_single_wrong_bit_is_noticed(saved, tmp_path):
    model, folder = saved
    content = bytearray((folder / "good.weights.h5").read_bytes())
    kernel = model.get_layer("head").kernel.numpy().tobytes()
    content[content.index(kernel)] ^= 1  # the last bit of the first weight
    path = tmp_path / "x.weights.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.weights\.h5 is damaged .*do not match"):
        load(path)


@pytest.mark.any_backend
def test_a_wrong_bit_is_noticed_by_the_models_own_loader(tmp_path):
    vit = keras_cbvit.ViTCB(**{**SMALL, "depth": 4, "classes": None}, include_top=False)
    pyramid = keras_cbvit.feature_pyramid(vit, (0, 1, 2, 3))
    upernet = keras_cbvit.SegmentationModel(pyramid, classes=3, channels=8)
    for model in (keras_cbvit.ViTCB(**SMALL), upernet):
        path = tmp_path / f"{model.name}.weights.h5"
        model.save_weights(path)
        model.load_weights(path)
        content = bytearray(path.read_bytes())
        weight = model.trainable_weights[0].numpy().tobytes()
        content[content.index(weight)] ^= 1
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"weights\.h5 is damaged .*do not match its"
        ):
            model.load_weights(path)


def test_a_file_of_weights_that_keras_alone_wrote_is_loaded(saved, tmp_path):
    model = saved[0]
    path = tmp_path / "x.weights.h5"
    keras.Model.save_weights(model, path)
    assert_same_values(values(load(path)), values(model))


@pytest.mark.parametrize(
    "ending, value",
    [
        (".keras", np.nan),
        (".keras", -np.inf),
        (".weights.h5", np.nan),
        (".weights.h5", 1e30),
    ],
)
@pytest.mark.any_backend
def test_weights_that_no_training_gives_are_refused(ending, value, saved, tmp_path):
    model = fill(keras_cbvit.ViTCB(**SMALL), 0)
    bias = model.get_layer("head").bias
    bias.assign(np.full(bias.shape, value, "float32"))
    path = tmp_path / f"x{ending}"
    model.save(path) if ending == ".keras" else model.save_weights(path)
    calls = [load] if ending == ".weights.h5" else [load, keras_cbvit.load_model]
    for call in calls:
        with pytest.raises(ValueError, match="head(/bias)? has values that are not"):
            call(path)


def changed(path, target, parts):
    """Writes an archive with some of its parts replaced."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**found, **parts}.items():
            archive.writestr(name, content)


def config_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def with_spec(config, changes):
    spec = {**config["config"]["spec"], **changes}
    return {**config, "config": {**config["config"], "spec": spec}}


WRONG = {
    "a list": lambda c: [],
    "null": lambda c: None,
    "a number": lambda c: 3,
    "no config": lambda c: {k: v for k, v in c.items() if k != "config"},
    "config of null": lambda c: {**c, "config": None},
    "extra": lambda c: {**c, "config": {**c["config"], "extra": 1}},
    "no spec": lambda c: {
        **c,
        "config": {k: v for k, v in c["config"].items() if k != "spec"},
    },
    "spec of null": lambda c: {**c, "config": {**c["config"], "spec": None}},
    "spec of a list": lambda c: {**c, "config": {**c["config"], "spec": [1]}},
    "names of a string": lambda c: {**c, "config": {**c["config"], "class_names": "a"}},
    **{
        name: lambda c, changes=changes: with_spec(c, changes)
        for name, changes in {
            "no depth": {"depth": None},
            "another field": {"extra": 1},
            "another type": {"patch_size": "8"},
            "a million blocks": {"depth": 10**6},
            "wide": {"hidden_dim": 2**20},
            "many classes": {"classes": 10**7},
            "large images": {"input_shape": [8 * 10**5, 8 * 10**5, 3]},
            "a large grid": {
                "input_shape": [None, None, 3],
                "position_grid": [10**5, 10**5],
            },
        }.items()
    },
}


@pytest.mark.parametrize("call", [load, keras_cbvit.load_model])
@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_configuration_of_another_shape_is_refused(change, call, saved, tmp_path):
    good = saved[1] / "good.keras"
    path = tmp_path / "x.keras"
    changed(good, path, {"config.json": json.dumps(change(config_of(good)))})
    with pytest.raises(ValueError, match=r"x\.keras is damaged") as error:
        call(path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("call", [load, keras_cbvit.load_model])
@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "\udcff", "NaN"])
def test_a_configuration_that_is_not_json_is_refused(content, call, saved, tmp_path):
    path = tmp_path / "x.keras"
    text = content.encode(errors="surrogateescape")
    changed(saved[1] / "good.keras", path, {"config.json": text})
    with pytest.raises(ValueError, match=r"x\.keras is damaged"):
        call(path)


def test_a_dtype_may_be_written_as_a_name(saved, tmp_path):
    model, folder = saved
    config = config_of(folder / "good.keras")
    config["config"]["dtype"] = "float32"
    path = tmp_path / "x.keras"
    changed(folder / "good.keras", path, {"config.json": json.dumps(config)})
    assert_same_values(values(load(path)), values(model))


@pytest.mark.parametrize("call", [load, keras_cbvit.load_model])
@pytest.mark.parametrize("name", ["config.json", "model.weights.h5", "metadata.json"])
@pytest.mark.any_backend
def test_a_small_file_does_not_take_much_memory(name, call, saved, tmp_path):
    path = tmp_path / "bomb.keras"
    spaces = b" " * (64 << 20)
    changed(saved[1] / "good.keras", path, {name: spaces})
    del spaces
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="67,[0-9]{3},[0-9]{3}"):
        call(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def sparse_weights():
    """An HDF5 file of an array that is not in it."""
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content.create_dataset("layers/dense/vars/0", (10**6, 10**6), "float32")
    return file.getvalue()


def test_an_array_larger_than_its_file_is_refused(saved, tmp_path):
    path = tmp_path / "sparse.keras"
    parts = {"model.weights.h5": sparse_weights()}
    changed(saved[1] / "good.keras", path, parts)
    (tmp_path / "sparse.weights.h5").write_bytes(sparse_weights())
    for call, file in (
        (load, path),
        (keras_cbvit.load_model, path),
        (load, tmp_path / "sparse.weights.h5"),
    ):
        with pytest.raises(ValueError, match="has 4,000,000,000,000 bytes"):
            call(file)


def test_two_parts_of_one_name_are_refused(saved, tmp_path):
    path = tmp_path / "x.keras"
    path.write_bytes((saved[1] / "good.keras").read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match="two parts with one name"):
        load(path)


def test_a_checksum_is_looked_at(saved, tmp_path):
    """Keras reads weights here and there, which does not check them."""
    content = bytearray((saved[1] / "good.keras").read_bytes())
    bias = saved[0].get_layer("head").kernel.numpy().tobytes()[:64]
    content[content.index(bias) + 1] ^= 1
    path = tmp_path / "x.keras"
    path.write_bytes(content)
    for call in (load, keras_cbvit.load_model):
        with pytest.raises(ValueError, match=r"checksum of model\.weights\.h5 is"):
            call(path)


@pytest.mark.parametrize("names", [["a"] * 7, [*"abcdef", 3], [*"abc"]])
def test_class_names_that_are_none_are_refused(names, saved, tmp_path):
    config = config_of(saved[1] / "good.keras")
    config["config"]["class_names"] = names
    path = tmp_path / "x.keras"
    changed(saved[1] / "good.keras", path, {"config.json": json.dumps(config)})
    for call in (load, keras_cbvit.load_model):
        with pytest.raises(ValueError, match=r"x\.keras|class_names") as error:
            call(path)
        assert len(str(error.value)) < 1000


def test_a_file_of_no_layers_is_refused(saved, tmp_path):
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content.create_group("layers")
    path = tmp_path / "x.keras"
    changed(saved[1] / "good.keras", path, {"model.weights.h5": file.getvalue()})
    for call in (load, keras_cbvit.load_model):
        with pytest.raises(ValueError, match=r"x\.keras"):
            call(path)


def test_a_file_that_lacks_the_layers_at_a_place_is_refused(tmp_path):
    model = fill(keras_cbvit.ViTCB(**SMALL, broadcast="cbs", broadcast_place="both"), 0)
    model.save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as archive:
        file = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(file, "a") as content:
        places = []
        content.visit(lambda name: places.append(name))
        (place,) = (name for name in places if name.endswith("msa_end"))
        del content[place]
    parts = {"model.weights.h5": file.getvalue()}
    changed(tmp_path / "good.keras", tmp_path / "x.keras", parts)
    for call in (load, keras_cbvit.load_model):
        with pytest.raises(ValueError, match=r"x\.keras .*context_broadcast"):
            call(tmp_path / "x.keras")


def test_models_of_others_are_loaded(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.save(tmp_path / "other.keras")
    loaded = keras_cbvit.load_model(tmp_path / "other.keras")
    np.testing.assert_array_equal(loaded.weights[0].numpy(), model.weights[0].numpy())


@pytest.mark.any_backend
def test_a_segmentation_model_larger_than_its_file_is_refused(tmp_path):
    size = {**SMALL, "depth": 4, "classes": None}
    vit = keras_cbvit.ViTCB(**size, include_top=False)
    pyramid = keras_cbvit.feature_pyramid(vit, (0, 1, 2, 3))
    model = keras_cbvit.SegmentationModel(pyramid, classes=3, channels=8)
    good, path = tmp_path / "good.keras", tmp_path / "x.keras"
    model.save(good)
    keras_cbvit.load_model(good)
    config = json.dumps(config_of(good))
    assert '"channels": 8' in config
    config = config.replace('"channels": 8', '"channels": 2000')
    changed(good, path, {"config.json": config})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"x\.keras is damaged .*weights in .* bytes"):
        keras_cbvit.load_model(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_many_parts_together_are_not_larger_than_their_file(saved, tmp_path):
    path = tmp_path / "x.keras"
    zeros = bytes(1 << 20)
    changed(saved[1] / "good.keras", path, {f"assets/{i}": zeros for i in range(30)})
    with pytest.raises(ValueError, match=r"x\.keras is damaged .*its parts have 31,"):
        keras_cbvit.load_model(path)
