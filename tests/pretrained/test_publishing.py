import dataclasses
import datetime
import errno
import hashlib
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import filelock
import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.layers import LayerScale
from keras_cbvit.models import registry
from keras_cbvit.models.registry import SIZES
from keras_cbvit.pretrained import publishing
from keras_cbvit.pretrained.publishing import check_weights_name
from keras_cbvit.pretrained.records import Evaluation, Preprocessing
from keras_cbvit.pretrained.sources import Folder
from tests.compare import assert_close
from tests.pretrained.places import published_file, record
from tests.tiny import TINY, assert_same_values, fill, predict, tiny, values

EVALUATION = Evaluation(
    task="classification",
    dataset="toys",
    split="shelf",
    metrics={"top1": 0.98765, "top5": 1},
    images=10,
    command="python -m recipes.evaluate vitcb_toy.v1",
    notes="the 10 toys of the shelf",
)
FACTS = {
    "class_names": ["cat", "dog", "eel"],
    "evaluations": [EVALUATION],
    "trained_on": "toys of the nursery",
    "recipe": "python -m recipes.train toys --seed 3",
    "license": "CC-BY-4.0",
}
NAME = "vitcb_toy.v1"


def toy(seed=0, **changes):
    return fill(tiny(depth=1, **changes), seed)


def publish(folder, model=None, name=NAME, **changes):
    model = model or toy()
    return keras_cbvit.publish(model, name, folder, **{**FACTS, **changes})


def records_in(folder):
    return Folder(folder).records()


def contents(folder):
    """Everything that is in a folder, by name."""
    files = (path for path in folder.rglob("*"))
    return {str(p): p.read_bytes() if p.is_file() else None for p in files}


def test_a_published_model_comes_back_by_its_name(tmp_path, monkeypatch):
    model = toy(broadcast="cbs")
    publish(tmp_path, model)
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path))
    assert keras_cbvit.list_weights() == [NAME]
    loaded = keras_cbvit.ViTCB(weights=NAME)
    assert_same_values(values(loaded), values(model))
    np.testing.assert_array_equal(predict(loaded), predict(model))
    best = keras_cbvit.decode_predictions(predict(loaded), NAME, top=1)
    assert best[0][0][0] == FACTS["class_names"][predict(model)[0].argmax()]


@pytest.mark.any_backend
def test_a_size_takes_everything_from_its_tag(tmp_path, monkeypatch):
    numbers = {number: TINY[number] for number in SIZES["ti"]}
    monkeypatch.setitem(SIZES, "ti", numbers)  # or it would take its time
    models = {**registry._models, "vitcb_ti": {**numbers, "broadcast": "cb"}}
    monkeypatch.setattr(registry, "_models", models)
    arguments = {"input_shape": (8, 12, 3), "patch_size": 4, "classes": 3}
    model = fill(keras_cbvit.ViTCB_Ti(**arguments, pooling="avg"))
    publish(tmp_path, model, "vitcb_ti.toy")
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path))
    names = FACTS["class_names"]
    for loaded in (
        keras_cbvit.ViTCB_Ti(weights="toy"),
        keras_cbvit.create_model("vitcb_ti", weights="toy"),
    ):
        assert loaded.get_config() == {**model.get_config(), "class_names": names}
        assert_same_values(values(loaded), values(model))


def test_the_record_says_what_was_published(tmp_path):
    model = toy()
    record = publish(
        tmp_path, model, url="https://example.org/a.keras", crop_fraction=0.875
    )
    content = published_file(tmp_path, NAME).read_bytes()
    assert vars(record) == {
        **FACTS,
        "name": NAME,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "architecture": {"class": "VisionTransformer", "spec": model.spec.to_json()},
        "input_shape": [8, 12, 3],
        "preprocessing": Preprocessing(
            image_size=[8, 12],
            crop_fraction=0.875,
            interpolation="bicubic",
            model_normalizes=True,
            mean=[0.485, 0.456, 0.406],
            std=[0.229, 0.224, 0.225],
        ),
        "parameters": sum(value.size for value in values(model).values()),
        "keras_version": keras.__version__,
        "date": datetime.date.today().isoformat(),
        "url": "https://example.org/a.keras",
    }
    assert records_in(tmp_path) == {NAME: record}
    names = {record.filename, f"{record.stem}.md", "catalog.json", publishing.LOCK}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_the_card_says_it_to_people(tmp_path):
    record = publish(tmp_path, notes="Three seeds: 0.98, 0.99, 0.99.")
    card = published_file(tmp_path, NAME, ".md").read_text()
    for fact in (
        f"# {NAME}\n",
        "- toys, shelf, 10 images: top1 0.9877, top5 1; the 10 toys of the shelf",
        "python -m recipes.evaluate vitcb_toy.v1",
        "toys of the nursery",
        "8×12×3, values 0–255",
        "| Classes | 3 |",
        f"| Parameters | {record.parameters:,} |",
        f"`{record.filename}`, {record.bytes:,} bytes, float32",
        f"`{record.sha256}`",
        "CC-BY-4.0",
        f"{record.date}, Keras {keras.__version__}",
        f'keras_cbvit.ViTCB(weights="{NAME}")',
        "python -m recipes.train toys --seed 3",
        "Three seeds: 0.98, 0.99, 0.99.",
    ):
        assert fact in card


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_a_model_trained_in_mixed_precision_is_published_in_float32(dtype, tmp_path):
    model = toy(dtype=dtype, drop_path_rate=0.1)
    publish(tmp_path, model)
    loaded = keras.saving.load_model(published_file(tmp_path, NAME))
    assert {layer.dtype_policy.name for layer in loaded._flatten_layers()} == {
        "float32"
    }
    assert_same_values(values(loaded), values(model))
    assert_close(predict(loaded), predict(model), atol=0.05)


def test_a_trained_model_is_published_without_its_optimizer(trained, tmp_path):
    publish(tmp_path, trained)
    loaded = keras.saving.load_model(published_file(tmp_path, NAME))
    assert not loaded.compiled
    assert_same_values(values(loaded), values(trained))


def test_a_model_without_a_head_is_published_without_class_names(tmp_path):
    model = toy(include_top=False, classes=None)
    record = publish(tmp_path, model, class_names=[])
    assert record.class_names == []
    assert (
        "none, the model has no head"
        in published_file(tmp_path, NAME, ".md").read_text()
    )


def upernet(**changes):
    """A small UperNet, whose variances are not negative."""
    vit = tiny(depth=4, include_top=False, classes=None, **changes)
    backbone = keras_cbvit.feature_pyramid(vit, range(4))
    dtype = changes.get("dtype")
    model = fill(keras_cbvit.SegmentationModel(backbone, 3, 4, dtype=dtype))
    for weight in model.weights:
        if weight.path.endswith("moving_variance"):
            weight.assign(np.abs(weight.numpy()) + 0.5)
    return model


IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 8, 12, 3)).astype("float32")


@pytest.mark.parametrize(
    "dtype",
    ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.any_backend)],
)
@pytest.mark.slow
def test_a_upernet_comes_back_by_its_name_in_float32(dtype, tmp_path, monkeypatch):
    model = upernet(dtype=dtype)
    name = "upernet_toy.v1"
    record = publish(tmp_path, model, name, images=IMAGES)
    assert record.input_shape == [None, None, 3]
    assert record.preprocessing.image_size is None
    assert record.architecture["class"] == "SegmentationModel"
    vit = record.architecture["backbone"]["config"]["vit"]["config"]
    assert vit["spec"]["hidden_dim"] == TINY["hidden_dim"]
    file = keras.saving.load_model(published_file(tmp_path, name))
    assert list(file.class_names) == record.class_names == FACTS["class_names"]
    assert record.parameters == model.count_params()
    assert records_in(tmp_path) == {name: record}
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path))
    loaded = keras_cbvit.load_model(name)
    policies = {layer.dtype_policy.name for layer in loaded._flatten_layers()}
    assert policies == {"float32"}
    assert_same_values(values(loaded), values(model))
    other_size = np.tile(IMAGES, (1, 2, 1, 1))
    for images in (IMAGES, other_size):
        found, expected = (m.predict(images, verbose=0) for m in (loaded, model))
        assert found.shape == (*images.shape[:3], 3)
        scale = np.abs(expected).max()
        tolerance = 1e-5 if dtype == "float32" else 0.1
        assert_close(found, expected, atol=tolerance * scale)
    card = published_file(tmp_path, name, ".md").read_text()
    shape = "any height and width divisible by the patch size, 3 channels"
    assert f"{shape}, values 0–255" in card
    assert f'model = keras_cbvit.load_model("{name}")' in card
    with pytest.raises(ValueError, match=r"load it with keras_cbvit\.load_model"):
        keras_cbvit.ViTCB(weights=name)


def test_the_preprocessing_of_a_upernet_is_that_of_its_vit():
    changes = {"include_preprocessing": False, "mean": (0.1, 0.2, 0.3)}
    vit = tiny(depth=4, include_top=False, classes=None, pooling=None, **changes)
    backbone = keras_cbvit.feature_pyramid(vit, range(4))
    model = keras_cbvit.SegmentationModel(backbone, 3, 4)
    found = publishing.preprocessing_of(model)
    assert not found.model_normalizes
    assert found.mean == [0.1, 0.2, 0.3]
    assert found.image_size is None


def test_a_upernet_is_refused_by_what_is_wrong_with_it(tmp_path):
    model = upernet()
    for changes, message in (
        ({}, "takes images of any size; pass images"),
        (
            {"name": "vitcb_toy.v1"},
            "names of UperNets, and no others, start with upern",
        ),
        ({"name": "upernet_vitcb_ti.v1"}, "build it with name='upernet_vitcb_ti'"),
        ({"class_names": ["cat"]}, "has 1 names, but the model predicts 3 classes"),
    ):
        arguments = {"name": "upernet_toy.v1", **changes}
        with pytest.raises(ValueError, match=message):
            publish(tmp_path, model, **arguments)
    training = model.with_auxiliary_head()
    with pytest.raises(ValueError, match="a Functional, not a VisionTransformer or"):
        publish(tmp_path, training, "upernet_toy.v1", images=IMAGES)
    assert contents(tmp_path) == {}


def test_the_size_of_a_upernet_is_told_by_its_name(tmp_path):
    backbone = keras_cbvit.feature_pyramid(
        tiny(depth=4, include_top=False, classes=None), range(4)
    )
    model = keras_cbvit.SegmentationModel(backbone, 3, 4, name="upernet_vitcb_ti")
    with pytest.raises(ValueError, match="which is a upernet_vitcb_ti"):
        publish(tmp_path, model, "upernet_toy.v1", images=IMAGES)


def test_the_folder_is_made(tmp_path):
    publish(tmp_path / "new" / "folder")
    assert list(records_in(tmp_path / "new" / "folder")) == [NAME]


@pytest.mark.any_backend
def test_other_records_of_the_catalog_stay(tmp_path):
    first = publish(tmp_path, name="vitcb_toy.v2")
    second = publish(tmp_path, name="vitcb_toy.v1")
    records = records_in(tmp_path)
    assert records == {"vitcb_toy.v2": first, "vitcb_toy.v1": second}


@pytest.mark.any_backend
def test_a_name_is_not_taken_twice_unless_asked(tmp_path):
    publish(tmp_path)
    before = contents(tmp_path)
    newer = toy(seed=1)
    with pytest.raises(FileExistsError, match=rf"already lists {NAME}.*overwrite it"):
        publish(tmp_path, newer)
    assert contents(tmp_path) == before
    other = dataclasses.replace(EVALUATION, metrics={"top1": 0.5})
    publish(tmp_path, newer, evaluations=[other], overwrite=True)
    assert len(contents(tmp_path)) == len(before)
    assert records_in(tmp_path)[NAME].evaluations == [other]
    assert " images: top1 0.5; " in published_file(tmp_path, NAME, ".md").read_text()
    loaded = keras_cbvit.ViTCB(weights=published_file(tmp_path, NAME))
    assert_same_values(values(loaded), values(newer))


# What is not published.


@pytest.mark.parametrize(
    "name, message",
    [
        ("toy", r"name='toy' must be architecture\.tag in lowercase"),
        ("../vitcb.toy", "must be architecture"),
        ("vitcb_s.toy", r"name='vitcb_s\.toy' does not match this model, which is not"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        publish(tmp_path, name=name)
    assert contents(tmp_path) == {}


@pytest.fixture
def named(monkeypatch):
    """Makes a small model that has a registered name, or none."""
    depths = {"ti": 1, "s": 2, "b": 3}
    sizes = {name: {"hidden_dim": 16, "depth": n} for name, n in depths.items()}
    models = {
        f"{family}_{size}": {**numbers, "broadcast": broadcast}
        for size, numbers in sizes.items()
        for broadcast, family in registry.FAMILIES.items()
    }
    monkeypatch.setattr(registry, "SIZES", sizes)
    monkeypatch.setattr(registry, "_models", models)

    def make(actual, is_upernet=False):
        if is_upernet:
            backbone = keras_cbvit.feature_pyramid(tiny(depth=4), range(4))
            return keras_cbvit.SegmentationModel(backbone, 3, 4, name=actual or "mine")
        return tiny(**(models[actual] if actual else {"depth": 4}))

    return make


@pytest.mark.any_backend
def test_names_that_fit_the_model_are_allowed(named):
    check_weights_name(named("vitcb_s"), "vitcb_s.imagenet")
    check_weights_name(named(None), "vitcb_digits.v2")
    check_weights_name(named("upernet_vit_b", True), "upernet_vit_b.ade20k")
    check_weights_name(named(None, True), "upernet_resnet50.ade20k")


@pytest.mark.parametrize("actual", [None, "vitcb_ti", "vit_s"])
@pytest.mark.any_backend
def test_a_known_architectures_name_is_refused_to_another_model(actual, named):
    with pytest.raises(
        ValueError, match=r"name='vitcb_s\.toy' does not match this model"
    ):
        check_weights_name(named(actual), "vitcb_s.toy")
    name = "upernet_vitcb_s.toy"
    with pytest.raises(ValueError, match=f"name='{name}' (requires|does not match) "):
        check_weights_name(named(actual and f"upernet_{actual}", True), name)


@pytest.mark.parametrize("is_upernet", [False, True])
def test_a_model_of_a_known_size_must_have_its_name(is_upernet, named):
    actual = "upernet_vitcbs_s" if is_upernet else "vitcbs_s"
    message = f"does not match this model, which is a {actual}"
    with pytest.raises(ValueError, match=message):
        name = "upernet_mine.toy" if is_upernet else "mine.toy"
        check_weights_name(named(actual, is_upernet), name)


@pytest.mark.parametrize(
    ("name", "is_upernet"), [("mine.v1", True), ("upernet_x.v1", False)]
)
@pytest.mark.any_backend
def test_the_names_of_upernets_say_so_and_no_others(name, is_upernet, named):
    with pytest.raises(
        ValueError, match="names of UperNets, and no others, start with"
    ):
        check_weights_name(named(None, is_upernet), name)


@pytest.mark.parametrize(
    "name", ["toy", "vitcb_s.", ".toy", "a.b.c", "A.toy", "../a.b", "a.b\n", "a b.c"]
)
@pytest.mark.any_backend
def test_a_name_that_is_not_architecture_and_tag_is_refused(name, named):
    with pytest.raises(ValueError, match=r"must be architecture\.tag in lowercase"):
        check_weights_name(named(None), name)


@pytest.mark.any_backend
def test_the_file_keeps_the_class_names(tmp_path, monkeypatch):
    model = toy()
    publish(tmp_path, model)
    assert model.class_names is None  # which is not the published one
    path = published_file(tmp_path, NAME)
    names = tuple(FACTS["class_names"])
    assert keras.saving.load_model(path).class_names == names
    # Published again under another name, it brings them along.
    record = publish(
        tmp_path, keras_cbvit.load_model(path), "vitcb_toy.v2", class_names=None
    )
    assert record.class_names == list(names)
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path))
    assert keras_cbvit.class_names(keras_cbvit.load_model("vitcb_toy.v2")) == [*names]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["dog", "cat", "eel"], "number 0 is 'dog' in class_names, 'cat' in the model"),
        (["cat", "dog", "fox"], "class_names has fox, but the model does not"),
    ],
)
def test_class_names_that_are_not_the_models_own_are_refused(given, message, tmp_path):
    model = toy()
    model.class_names = ["cat", "dog", "eel"]
    with pytest.raises(ValueError, match=f"differ from those of the model: {message}"):
        publish(tmp_path, model, class_names=given)
    assert contents(tmp_path) == {}


def test_a_record_of_other_class_names_than_its_file_is_refused(tmp_path, monkeypatch):
    publish(tmp_path)
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path))
    catalog = tmp_path / "catalog.json"
    catalog.write_text(catalog.read_text().replace("eel", "fox"))
    message = "record 'vitcb_toy.v1' differ from those of its file: the record has fox"
    for load in (keras_cbvit.load_model, lambda name: keras_cbvit.ViTCB(weights=name)):
        with pytest.raises(ValueError, match=message):
            load(NAME)
    keras_cbvit.ViTCB(weights=NAME, classes=5)  # has no use for them


def test_class_names_that_are_not_those_of_the_predictions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has 2 names, but the model predicts 3 c"):
        publish(tmp_path, class_names=["cat", "dog"])
    headless = toy(include_top=False, classes=None)
    with pytest.raises(ValueError, match="has 3 names, but the model predicts 0 c"):
        publish(tmp_path, headless)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    model = toy(broadcast="cbs")
    scale = model.get_layer("block_0").mlp.end[0].channel_scale
    scale.assign(np.array([value] + [0.0] * 15))
    message = "weight block_0/mlp/context_broadcast/scale is not finite, so training"
    with pytest.raises(ValueError, match=message):
        publish(tmp_path, model)
    assert contents(tmp_path) == {}


def test_a_model_that_is_not_of_this_package_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="a Sequential, not a VisionTransformer"):
        publish(tmp_path, model)


def test_lora_is_merged(tmp_path):
    model = toy()
    head = model.get_layer("head")
    kernel = head.kernel.numpy()
    head.enable_lora(2)
    a, b = (np.full(v.shape, 0.1) for v in (head.lora_kernel_a, head.lora_kernel_b))
    head.lora_kernel_a.assign(a)
    head.lora_kernel_b.assign(b)
    publish(tmp_path, model)
    loaded = keras_cbvit.ViTCB(weights=published_file(tmp_path, NAME))
    scale = head.lora_alpha / head.lora_rank
    merged = loaded.get_layer("head").kernel.numpy()
    np.testing.assert_allclose(merged, kernel + scale * a @ b, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_a_quantized_model_is_refused(tmp_path):
    model = toy()
    model.get_layer("head").quantize("int8")
    with pytest.raises(ValueError, match="quantized; publish it before"):
        publish(tmp_path, model)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"class_names": "abc"}, "class_names='abc' must be a list"),
        ({"class_names": [0, 1, 2]}, r"class_names\[0\] is 0, not a string"),
        ({"class_names": None}, "has no class names; pass class_names"),
        ({"trained_on": 5}, "'trained_on' of the record .* not a str"),
        (
            {"evaluations": [dataclasses.replace(EVALUATION, metrics={"a": np.nan})]},
            "'metrics' of the field 'evaluations' of the record .* is nan",
        ),
        ({"evaluations": ["0.5"]}, "'evaluations' of the record .* not a Evaluation"),
    ],
)
@pytest.mark.any_backend
def test_facts_that_no_catalog_could_hold_are_refused(facts, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        publish(tmp_path, **facts)
    assert contents(tmp_path) == {}


# A failure leaves the folder as it was.


@pytest.fixture(scope="module")
def published_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    publish(folder)
    return folder


@pytest.fixture
def published(published_once, tmp_path):
    """A folder with weights, and all that is in it."""
    shutil.copytree(published_once, tmp_path, dirs_exist_ok=True)
    return tmp_path, contents(tmp_path)


@pytest.mark.any_backend
def test_nothing_is_published_if_the_float32_model_disagrees(published, monkeypatch):
    folder, before = published
    monkeypatch.setattr(publishing, "in_float32", lambda _: toy(seed=1))
    message = "The predictions of the float32 model differ .* by "
    with pytest.raises(ValueError, match=message):
        publish(folder, overwrite=True)
    assert contents(folder) == before


@pytest.mark.parametrize("other", [1, np.nan])
@pytest.mark.any_backend
def test_nothing_is_published_if_the_file_disagrees(other, published, monkeypatch):
    folder, before = published
    wrong = toy(seed=1)
    if np.isnan(other):
        wrong.get_layer("head").bias.assign([np.nan] * 3)
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: wrong)
    with pytest.raises(ValueError, match="The predictions of the f"):
        publish(folder, overwrite=True)
    assert contents(folder) == before


@pytest.mark.parametrize("name", [NAME, "vitcb_toy.v2"])
@pytest.mark.parametrize("move", [1, 2, 3])
@pytest.mark.slow
@pytest.mark.any_backend
def test_all_files_are_moved_or_none(move, name, published, monkeypatch):
    folder, before = published
    real, moved = os.replace, []

    def replace(source, target):
        if os.path.dirname(target) == str(folder):
            moved.append(target)
            if len(moved) == move:
                raise OSError("the disk is full")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="the disk is full"):
        publish(folder, toy(seed=1), name, overwrite=True)
    assert contents(folder) == before


def test_a_catalog_that_is_not_valid_stays_as_it_is(tmp_path):
    (tmp_path / "catalog.json").write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="is not a valid catalog"):
        publish(tmp_path)
    assert contents(tmp_path) == before


# Two at once.


@pytest.mark.any_backend
def test_who_publish_at_once_are_all_in_the_catalog(tmp_path):
    names = ["vitcb_toy.v1", "vitcb_toy.v2", "vitcb_toy.v3"]
    models = [toy(seed) for seed in range(3)]
    start = threading.Barrier(3)

    def run(model, name):
        start.wait()
        return publish(tmp_path, model, name)

    with ThreadPoolExecutor(3) as pool:
        records = list(pool.map(run, models, names))
    assert records_in(tmp_path) == dict(zip(names, records, strict=True))
    for model, name in zip(models, names, strict=True):
        loaded = keras_cbvit.ViTCB(weights=published_file(tmp_path, name))
        assert_same_values(values(loaded), values(model))


@pytest.mark.any_backend
def test_who_waits_in_vain_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "LOCK_SECONDS", 0)
    message = f"has been publishing into {tmp_path}"
    with (
        filelock.FileLock(tmp_path / publishing.LOCK),
        pytest.raises(TimeoutError, match=message),
    ):
        publish(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [publishing.LOCK]
    publish(tmp_path)


# Stopped in the middle.


def killed(signal_number, replacement, after, put):
    """Runs `put` in a process that is killed at a replacement of a file.

    `after` says whether it is killed before or after the replacement is done. Returns
    whether that replacement was reached.
    """
    child = os.fork()
    if not child:
        real, done = os.replace, []

        def replace(source, target):
            done.append(target)
            if len(done) == replacement and not after:
                os.kill(os.getpid(), signal_number)
            real(source, target)
            if len(done) == replacement:
                os.kill(os.getpid(), signal_number)

        os.replace = replace
        try:
            put()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.slow
@pytest.mark.any_backend
def test_a_process_that_is_killed_leaves_the_old_version_or_the_new_one(
    overwrite, after, signal_number, tmp_path
):
    def put(content):
        with publishing._lock(tmp_path):
            card = f"card of {content}"
            new = record(content=content)
            publishing._put(new, content, card, tmp_path, overwrite=True)

    def published():
        found = records_in(tmp_path).get("vitcb_s.toy")
        if found is None:
            return None
        content = (tmp_path / found.filename).read_bytes()
        assert hashlib.sha256(content).hexdigest() == found.sha256
        assert (tmp_path / f"{found.stem}.md").read_text() == f"card of {content}"
        return content

    replacement = 1
    if overwrite:
        put(b"old")
    old = published()
    while killed(signal_number, replacement, after, lambda: put(b"new")):
        assert published() == (b"new" if after and replacement == 3 else old)
        replacement += 1
        put(b"again")
        assert published() == b"again"
        names = {path.name for path in tmp_path.iterdir()}
        assert len(names) == 4, names  # file, card, catalog and lock
        put(b"old")
        old = b"old"
    assert replacement == 4


@pytest.mark.any_backend
def test_a_full_disk_leaves_the_old_version(tmp_path, monkeypatch):
    before = publish(tmp_path)
    files = contents(tmp_path)
    real = open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, mode="r", **options):
        file = real(path, mode, **options)
        is_card = str(path).endswith(".md") and mode == "wb"
        return Full(file) if is_card else file

    monkeypatch.setattr("builtins.open", opened)
    with pytest.raises(
        OSError, match=r"\.md cannot be written \(No space left.*free\)"
    ):
        publish(tmp_path, toy(seed=1), overwrite=True)
    monkeypatch.undo()
    assert contents(tmp_path) == files
    assert records_in(tmp_path) == {NAME: before}


# A model of a class of one's own.


@keras.saving.register_keras_serializable(package="tests")
class Gated(keras_cbvit.VisionTransformer):
    """Its blocks gate what their attention gives."""

    @classmethod
    def encoder_block(cls, i, spec, dtype):
        block = super().encoder_block(i, spec, dtype)
        gate = LayerScale(0.5, dtype=dtype, name="gate")
        block.msa_end = (*block.msa_end, gate)
        return block


def gated(**changes):
    spec = {**TINY, "depth": 4, **changes}
    return fill(Gated(spec, name="gated"))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.any_backend
def test_a_class_of_ones_own_is_published(dtype, tmp_path, monkeypatch):
    model = fill(Gated({**TINY, "depth": 2}, dtype=dtype))
    assert "block_1/gate/gamma" in values(model)
    found = publish(tmp_path, model, "gated_tiny.v1")
    assert found.architecture == {"class": "Gated", "spec": model.spec.to_json()}
    monkeypatch.setenv("KERAS_CBVIT_WEIGHTS", str(tmp_path))
    loaded = keras_cbvit.load_model("gated_tiny.v1")
    assert type(loaded) is Gated
    assert_same_values(values(loaded), values(model))
    message = "has a Gated, not a VisionTransformer"
    with pytest.raises(ValueError, match=message):
        keras_cbvit.ViTCB(weights="gated_tiny.v1")


@pytest.mark.any_backend
def test_a_class_of_ones_own_is_taken_wherever_a_vision_transformer_is(tmp_path):
    model = gated()
    x = np.random.default_rng(0).uniform(0, 255, (2, 8, 12, 3)).astype("float32")
    maps = keras_cbvit.analysis.attention_maps(model, x)
    assert [m.shape for m in maps] == [(2, 2, 7, 7)] * 4
    assert keras_cbvit.analysis.total_cost(model).parameters == model.count_params()
    pyramid = keras_cbvit.feature_pyramid(model, range(4))
    assert "block_3/gate/gamma" in values(pyramid)
    segmenter = keras_cbvit.SegmentationModel(pyramid, 3, 4)
    segmenter.save(tmp_path / "model.keras")
    copy = keras_cbvit.load_model(tmp_path / "model.keras")
    assert_same_values(values(copy), values(segmenter))
    np.testing.assert_array_equal(predict(copy, x), predict(segmenter, x))
