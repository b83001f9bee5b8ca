"""The options of the network, and what becomes of them."""

import dataclasses

import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.analysis import channel_scales
from recipes import train
from recipes.configs import camvid_mini, digits, imagenet
from recipes.network import (
    Network,
    build_classifier,
    build_segmenter,
    given_fields,
    without_defaults,
)
from recipes.options.segmentation import Data
from tests.recipes.small import SMALL, interrupted, read_log, small
from tests.tiny import assert_same_values, values

pytestmark = pytest.mark.slow

UPERNET = {"patch_size": 4, "hidden_dim": 8, "depth": 4, "num_heads": 2}
PICTURES = Data(image_size=(16, 16))
NOTHING = Network()  # typed


def test_the_options_are_the_fields_of_the_spec_and_what_training_adds():
    fields = {field.name for field in dataclasses.fields(keras_cbvit.ViTSpec)}
    decided = {
        "input_shape",
        "position_grid",
        "include_preprocessing",
        "classes",
        "classifier_activation",
    }
    own = {"model", "weights", "initial_scale", "channels", "blocks"}
    options = {field.name for field in dataclasses.fields(Network)}
    assert options == fields - decided | own
    assert given_fields(Network()) == {}
    assert set(dataclasses.asdict(Network()).values()) == {None}


@pytest.fixture
def asked(monkeypatch):
    """A function from a command line to the network that it asks for."""
    experiments = []

    def keep(experiment, command):
        experiments.append(experiment)

    monkeypatch.setattr(train, "train", keep)

    def network(*arguments):
        train.main([*arguments])
        return experiments[-1].network

    return network


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--layer-scale 1e-4", {"layer_scale": 1e-4}),
        ("--num-register-tokens 2", {"num_register_tokens": 2}),
        ("--squeeze-excitation True", {"squeeze_excitation": True}),
        ("--remat False", {"remat": False}),
        ("--uniform-head attached", {"uniform_head": "attached"}),
        ("--extra-branch msa", {"extra_branch": "msa"}),
        ("--mean 0.5 0.5 0.5", {"mean": (0.5, 0.5, 0.5)}),
        ("--broadcast-blocks upper", {"broadcast_blocks": "upper"}),
        ("--broadcast-blocks 2", {"broadcast_blocks": (2,)}),
        ("--broadcast-blocks 0 2", {"broadcast_blocks": (0, 2)}),
        ("--broadcast none", {"broadcast": "none"}),
        # What plain ViTs were asked for by, before None was "not given".
        ("--broadcast None", {"broadcast": "none"}),
        ("--broadcast=None", {"broadcast": "none"}),
        ("--depth None", {"depth": None}),
    ],
)
@pytest.mark.any_backend
def test_every_field_is_an_option(asked, options, expected):
    network = digits.config().network
    assert asked("digits", *options.split()) == dataclasses.replace(network, **expected)


def test_the_plain_vit_is_asked_for_by_none_in_segmentation_too(asked):
    assert asked("camvid_mini", "--broadcast", "None").broadcast == "none"


@pytest.mark.any_backend
def test_what_is_typed_stays_also_where_the_config_says_the_same(asked):
    network = asked("digits", "--model", "vitcb_ti", "--depth", "4")
    assert (network.model, network.depth, network.hidden_dim) == ("vitcb_ti", 4, None)
    options = "--model upernet_vitcb_ti --blocks 1 2 3 5 --channels 32"
    network = asked("camvid_mini", *options.split())
    assert (network.blocks, network.channels) == ((1, 2, 3, 5), 32)
    options = "--weights vit_mini.cifar10 --model vitcb_s"
    network = asked("multi_label", *options.split())
    assert (network.weights, network.model) == ("vit_mini.cifar10", "vitcb_s")


def test_what_only_a_config_says_goes_with_its_model():
    config = digits.config().network
    other = dataclasses.replace(config, model="vit_s", depth=3, drop_path_rate=0.2)
    expected = Network(model="vit_s", patch_size=4, depth=3, drop_path_rate=0.2)
    assert without_defaults(other, config, NOTHING) == expected
    assert without_defaults(config, config, NOTHING) == config


def test_with_weights_the_network_is_theirs():
    config = imagenet.config().network
    asked = dataclasses.replace(config, weights="a.keras", hidden_dim=8)
    expected = Network(weights="a.keras", hidden_dim=8, drop_path_rate=0.1)
    assert without_defaults(asked, config, NOTHING) == expected
    # No weights say what a UperNet's head is.
    config = camvid_mini.config().network
    asked = dataclasses.replace(config, weights="a.keras")
    assert without_defaults(asked, config, NOTHING) == asked
    asked = dataclasses.replace(asked, model="upernet_vitcb_ti", channels=7)
    assert without_defaults(asked, config, NOTHING) == Network(
        weights="a.keras", model="upernet_vitcb_ti", channels=7, drop_path_rate=0.0
    )


def test_what_is_not_given_is_the_specs_default():
    network = Network(hidden_dim=16, num_heads=2, depth=1, patch_size=4)
    model = build_classifier(network, SMALL.data, 10, "float32")
    assert model.spec == keras_cbvit.ViTSpec(
        hidden_dim=16,
        num_heads=2,
        depth=1,
        patch_size=4,
        input_shape=(8, 8, 3),
        classes=10,
        classifier_activation=None,
    )


@pytest.mark.any_backend
def test_a_network_that_is_not_of_the_task_is_refused():
    for network, message in (
        (
            Network(model="upernet_vitcb_s"),
            "model='upernet_vitcb_s' is not a classifier",
        ),
        (
            Network(model="vit_xl"),
            "model='vit_xl' is not a classifier; use one of vit_b, ",
        ),
        (Network(channels=8), "channels=8 applies only to UperNet"),
        (
            Network(blocks=(0, 1, 2, 3)),
            r"blocks=\(0, 1, 2, 3\) applies only to UperNet",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            build_classifier(network, SMALL.data, 10, "float32")
    for network, message in (
        (
            Network(model="vitcb_s"),
            "model='vitcb_s' is not a segmentation model; use one",
        ),
        (Network(), "requires --channels; the paper uses 192, 384, 512"),
        (
            Network(**UPERNET, channels=4, blocks=(0, 1, 2)),
            r"blocks=\(0, 1, 2\) must be indices of four blocks, not 3",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            build_segmenter(network, PICTURES, 3, "float32")


@pytest.mark.any_backend
def test_lambda_of_a_segmentation_model_starts_from_what_is_asked_for():
    network = Network(
        **UPERNET,
        blocks=(0, 1, 2, 3),
        channels=4,
        broadcast="cbs",
        initial_scale=0.5,
    )
    model = build_segmenter(network, PICTURES, 3, "float32")
    scales = channel_scales(model)
    assert len(scales) == 4
    for scale in scales.values():
        np.testing.assert_array_equal(scale, np.full(8, 0.5))
    network = dataclasses.replace(network, broadcast="cb")
    with pytest.raises(ValueError, match=r"initial_scale=0\.5 has no effect"):
        build_segmenter(network, PICTURES, 3, "float32")


SPECS = {
    "parts": {
        "broadcast": "cbs",
        "initial_scale": 0.5,
        "layer_scale": 0.1,
        "num_register_tokens": 2,
        "squeeze_excitation": True,
        "drop_path_rate": 0.5,
    },
    "ablations": {
        "broadcast": "none",
        "uniform_head": "attached",
        "extra_branch": "msa",
        "pooling": "avg",
    },
}


@pytest.mark.parametrize(
    "name", ["parts", pytest.param("ablations", marks=pytest.mark.any_backend)]
)
def test_every_kind_of_network_is_trained_and_gone_on_with_bit_for_bit(name, tmp_path):
    network = {**SPECS[name], "depth": 2, "epochs": 2}
    train.train(small(tmp_path / "whole", **network))
    with interrupted(step=8):  # after the checkpoint of step 6
        train.train(small(tmp_path / "parts", **network))
    train.train(small(tmp_path / "parts", **network))
    whole, parts = (
        keras_cbvit.load_model(tmp_path / folder / "model.keras")
        for folder in ("whole", "parts")
    )
    assert_same_values(values(parts), values(whole))
    for field in SPECS[name].keys() - {"initial_scale"}:
        assert getattr(whole.spec, field) == SPECS[name][field]
    losses = [epoch["loss"] for epoch in read_log(tmp_path / "whole")]
    assert losses[1] < losses[0]
