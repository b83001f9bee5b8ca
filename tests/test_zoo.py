import inspect
import json
from pathlib import Path

import keras
import pytest

import keras_cbvit
from keras_cbvit.pretrained.architectures import SIZES as SIZES_OF_THE_PACKAGE
from tests.tiny import TINY, predict, tiny, values

SIZES = json.loads((Path(__file__).parents[1] / "data" / "sizes.json").read_text())


@pytest.mark.parametrize(
    "builder, size, numbers",
    [
        (keras_cbvit.ViTCB_Ti, "Ti", (192, 12, 3, 4)),
        (keras_cbvit.ViTCB_S, "S", (384, 12, 6, 4)),
        (keras_cbvit.ViTCB_B, "B", (768, 12, 12, 4)),
    ],
)
def test_sizes_have_the_numbers_and_parameters_of_the_paper(builder, size, numbers):
    model = builder(broadcast="cbs")
    config = model.get_config()
    names = ("hidden_dim", "depth", "num_heads", "mlp_ratio")
    assert tuple(config[name] for name in names) == numbers
    scales = [weight for weight in model.weights if weight.path.endswith("/scale")]
    assert len(scales) == 12
    extra = sum(weight.shape[0] for weight in scales)
    assert extra == SIZES[size]["cbs_extra_params"]
    assert model.count_params() - extra == SIZES[size]["params"]


@pytest.fixture
def small_ti(monkeypatch):
    """`ViTCB_Ti` of the numbers of the tests' tiny model."""
    for number in SIZES_OF_THE_PACKAGE["ti"]:
        monkeypatch.setitem(SIZES_OF_THE_PACKAGE["ti"], number, TINY[number])


@pytest.mark.parametrize(
    "broadcast, name", [(None, "vit_ti"), ("cb", "vitcb_ti"), ("cbs", "vitcbs_ti")]
)
def test_a_model_is_named_by_its_kind_and_size(broadcast, name, small_ti):
    model = keras_cbvit.ViTCB_Ti((8, 12, 3), 4, 3, broadcast=broadcast)
    assert model.name == name
    assert tiny(broadcast=broadcast, depth=1).name == name.removesuffix("_ti")
    assert tiny(broadcast=broadcast, name="mine").name == "mine"


def test_the_default_is_deits_small_model_with_cb_at_the_end_of_every_mlp():
    defaults = {
        name: getattr(parameter.default, "value", parameter.default)
        for name, parameter in inspect.signature(keras_cbvit.ViTCB).parameters.items()
    }
    assert defaults == {
        "input_shape": (224, 224, 3),
        "patch_size": 16,
        "classes": 1000,
        "include_top": True,
        "weights": None,
        "pooling": "token",
        "classifier_activation": "softmax",
        "broadcast": "cb",
        "broadcast_place": "mlp_end",
        "broadcast_blocks": "all",
        "context": "mean",
        "drop_path_rate": 0.0,
        "remat": False,
        "include_preprocessing": True,
        "hidden_dim": 384,
        "depth": 12,
        "num_heads": 6,
        "mlp_ratio": 4,
        "dtype": None,
        "name": None,
        "allow_other_function": False,
    }


def test_a_size_takes_the_other_arguments_by_place_and_by_name(small_ti):
    model = keras_cbvit.ViTCB_Ti((8, 12, 3), 4, 5, pooling="avg", name="mine")
    config = model.get_config()
    assert (config["input_shape"], config["patch_size"]) == ((8, 12, 3), 4)
    assert (config["classes"], config["pooling"]) == (5, "avg")
    assert model.name == "mine"


def test_the_signature_of_a_size_shows_real_defaults_and_not_the_sizes_numbers():
    assert str(inspect.signature(keras_cbvit.ViTCB_S)) == (
        "(input_shape=(224, 224, 3), patch_size=16, classes=1000, include_top=True, "
        "weights=None, pooling='token', classifier_activation='softmax', "
        "broadcast='cb', broadcast_place='mlp_end', broadcast_blocks='all', "
        "context='mean', drop_path_rate=0.0, remat=False, "
        "include_preprocessing=True, dtype=None, name=None, "
        "allow_other_function=False)"
    )
    assert keras_cbvit.ViTCB_S.__name__ == "ViTCB_S"
    with pytest.raises(TypeError, match="hidden_dim"):
        keras_cbvit.ViTCB_S(hidden_dim=192)


def test_random_weights_follow_the_seed_of_keras():
    def first_kernel():
        keras.utils.set_random_seed(3)
        return values(tiny())["block_0/mlp/fc1/kernel"]

    assert (first_kernel() == first_kernel()).all()


def test_it_predicts_probabilities_and_without_activation_logits():
    assert predict(tiny()).sum(axis=1) == pytest.approx(1, abs=1e-5)
    logits = tiny(classifier_activation=None)
    assert predict(logits).shape == (4, TINY["classes"])
    assert predict(logits).sum(axis=1) != pytest.approx(1, abs=1e-5)
