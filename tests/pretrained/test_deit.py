"""`weights="imagenet"`, from a server on this machine with files of DeiT's shapes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import keras_cbvit
from keras_cbvit.pretrained import deit, imagenet
from keras_cbvit.pretrained.sources import find_record
from tests.pretrained.deit_weights import state_of
from tests.pretrained.hub_server import hub as serve
from tests.pretrained.places import entry, published_file, write_catalog
from tests.tiny import predict

CONFIG = {
    "architecture": "deit_small_patch16_224",
    "num_classes": 1000,
    "pretrained_cfg": {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
    },
}


@pytest.fixture(scope="module")
def states():
    return {"ti": state_of(192), "s": state_of(384)}


@pytest.fixture
def hub(states, monkeypatch):
    """A hub with these weights in DeiT's repositories; their hashes in the records."""
    repositories = {}
    for size, state in states.items():
        content = save(state)
        file = deit._FILES[size]
        repositories[file.repository] = {
            "config.json": json.dumps(CONFIG).encode(),
            "model.safetensors": content,
        }
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(deit._FILES, size, file._replace(sha256=digest))
    commits = {file.repository: file.revision for file in deit._FILES.values()}
    with serve(repositories, commits) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture(autouse=True)
def with_deit(no_deit, monkeypatch):
    """DeiT's weights are among those of these tests."""
    monkeypatch.setattr(deit.DeiT, "records", lambda _: deit.records())


def images(count, height, width):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (count, height, width, 3)).astype("float32")


def assert_weights_of(model, state):
    found = {name: weight.numpy() for name, weight in model.weights_by_name().items()}
    for path, expected in {
        "block_7/attention/qkv/kernel": state["blocks.7.attn.qkv.weight"].T,
        "block_11/mlp/fc2/bias": state["blocks.11.mlp.fc2.bias"],
        "token_embedding/class_token": state["cls_token"],
    }.items():
        np.testing.assert_array_equal(found[path], expected, err_msg=path)


@pytest.mark.any_backend
@pytest.mark.slow
def test_imagenet_weights_are_fine_tuned_on_other_classes_and_sizes(hub, states):
    with pytest.warns(UserWarning, match=r"loading vit_s\.imagenet, a plain ViT"):
        model = keras_cbvit.ViTCB_S(weights="imagenet")
    assert (model.name, model.spec.broadcast) == ("vitcbs_s", "cbs")
    assert_weights_of(model, states["s"])
    predictions = model.predict(images(2, 224, 224), verbose=0)
    best = int(predictions[0].argmax())
    (first, _), *_ = keras_cbvit.decode_predictions(predictions, model)[0]
    assert first == imagenet.words()[best]

    plain = keras_cbvit.create_model("vit_s", weights="imagenet")
    np.testing.assert_allclose(predict(plain, images(2, 224, 224)), predictions, 1e-4)

    model = keras_cbvit.ViTCB_S(
        broadcast="cbs", weights="imagenet", classes=3, input_shape=(64, 96, 3)
    )
    assert model.class_names is None
    assert_weights_of(model, states["s"])
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = model.blocks[3].mlp.fc1.kernel.numpy()
    history = model.fit(images(4, 64, 96), np.array([0, 1, 2, 0]), verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert np.abs(model.blocks[3].mlp.fc1.kernel.numpy() - before).max() > 0
    assert np.abs(model.blocks[3].mlp.end[0].channel_scale.numpy()).max() > 0
    assert hub.count("GET", "model.safetensors") == 1


any_backend = pytest.mark.any_backend


@any_backend
@pytest.mark.parametrize("broadcast", ["none", "cbs"])
def test_who_says_how_to_broadcast_is_not_warned(broadcast, hub, states, recwarn):
    model = keras_cbvit.ViTCB_Ti(broadcast=broadcast, weights="imagenet")
    assert model.spec.broadcast == broadcast
    assert_weights_of(model, states["ti"])
    assert not [each for each in recwarn if each.category is UserWarning]


@any_backend
@pytest.mark.parametrize("name", ["vit_ti", "vitcbs_ti"])
def test_a_registered_name_says_how_to_broadcast(name, hub):
    model = keras_cbvit.create_model(name, weights="imagenet", include_top=False)
    assert model.name == name
    assert model.head is None


@any_backend
def test_a_full_name_is_that_of_the_plain_model(hub, recwarn):
    for model in (
        keras_cbvit.ViTCB(weights="vit_ti.imagenet"),
        keras_cbvit.load_model("vit_ti.imagenet"),
    ):
        assert (model.name, model.spec.broadcast) == ("vit_ti", "none")
        assert model.class_names == imagenet.words()
    assert not [each for each in recwarn if each.category is UserWarning]


@any_backend
@pytest.mark.parametrize(
    "build",
    [
        lambda: keras_cbvit.ViTCB_S(broadcast="cb", weights="imagenet"),
        lambda: keras_cbvit.create_model("vitcb_s", weights="imagenet"),
        lambda: keras_cbvit.ViTCB(weights="vitcb_s.imagenet"),
    ],
)
def test_cb_in_words_is_an_error_that_names_the_two_ways(build, hub):
    message = "no weights 'vitcb_s.imagenet' are published"
    with pytest.raises(ValueError, match=message) as error:
        build()
    for way in ("broadcast='cbs'", "`keras-cbvit train imagenet_anneal "):
        assert way in str(error.value)
    assert not hub.requests


@any_backend
def test_weights_with_cb_go_first_where_there_are_any(hub, own_folder, recwarn):
    model = keras_cbvit.ViTCB_Ti(input_shape=(32, 32, 3), classes=2)
    model.save(own_folder / "model.keras")
    content = (own_folder / "model.keras").read_bytes()
    name = "vitcb_ti.imagenet"
    write_catalog(own_folder, entry(name, content, class_names=["cat", "dog"]))
    published_file(own_folder, name).write_bytes(content)
    assert keras_cbvit.ViTCB_Ti(weights="imagenet").spec.broadcast == "cb"
    assert not [each for each in recwarn if each.category is UserWarning]


@any_backend
def test_a_upernet_takes_them_as_its_backbone(hub, states):
    model = keras_cbvit.UperNet_ViTCB_Ti(
        3, weights="imagenet", broadcast="cbs", input_shape=(64, 64, 3)
    )
    assert_weights_of(model, states["ti"])


@any_backend
def test_another_size_is_refused(hub):
    with pytest.raises(ValueError, match="have hidden_dim=192, not 384"):
        keras_cbvit.ViTCB_S(weights="vit_ti.imagenet")


@any_backend
def test_a_file_of_another_hash_is_refused(hub, monkeypatch):
    monkeypatch.setitem(deit._FILES, "ti", deit._FILES["ti"]._replace(sha256="0" * 64))
    with pytest.raises(OSError, match=f"has the SHA-256 .*, not {'0' * 64}"):
        keras_cbvit.ViTCB_Ti(broadcast="cbs", weights="imagenet")


# What the records say.


@any_backend
def test_the_records_are_those_of_the_published_files():
    """As looked up: the hash, revision and size of timm's files, DeiT's accuracy."""
    record = find_record("vit_s.imagenet")
    assert record.sha256.startswith("1e747b4a8d0df2cf")
    assert record.url == (
        "hf://timm/deit_small_patch16_224.fb_in1k"
        "@91327a9c99f98fe6b524cd4d397b7226b80e1365"
    )
    assert (record.bytes, record.license) == (88_216_496, "Apache-2.0")
    assert record.parameters == 22_050_664  # as DeiT's README: 22M
    assert record.preprocessing.crop_fraction == pytest.approx(224 / 248)
    (evaluation,) = record.evaluations
    assert evaluation.metrics == {"top1": 0.799, "top5": 0.95}
    assert "not measured" in evaluation.notes


@any_backend
def test_they_are_listed():
    names = [f"vit_{size}.imagenet" for size in ("b", "s", "ti")]
    assert keras_cbvit.list_weights() == names
    assert keras_cbvit.list_models("vit_*", pretrained=True) == names
    assert keras_cbvit.class_names("imagenet") == list(imagenet.words())
    predictions = np.eye(1000)[[207]]
    decoded = keras_cbvit.decode_predictions(predictions, "imagenet", top=1)
    assert decoded == [[("golden retriever", 1.0)]]


@any_backend
def test_the_classes_are_imagenets():
    """The synsets as TFDS lists them; names of well-known numbers."""
    listed = Path(__file__).parent.parent / "data/tfds/imagenet2012/5.1.0"
    synsets = (listed / "label.labels.txt").read_text().split()
    assert list(imagenet.synsets()) == synsets
    assert len(set(imagenet.words())) == 1000
    known = {0: "tench", 134: "crane bird", 517: "crane", 999: "toilet tissue"}
    assert {number: imagenet.words()[number] for number in known} == known
    assert imagenet.in_synsets(imagenet.words()) == imagenet.synsets()
    assert imagenet.in_synsets(["cat", "dog"]) == ("cat", "dog")
