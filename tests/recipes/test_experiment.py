import dataclasses
import importlib

import numpy as np
import pytest

from keras_cbvit.analysis import channel_scales
from keras_cbvit.pretrained.publishing import check_publishable
from recipes.commands import config_names
from recipes.network import Network, build_classifier
from recipes.options.classification import Data
from tests.recipes.small import SMALL

pytestmark = pytest.mark.any_backend


def test_there_are_these_configs():
    assert config_names() == [
        "ade20k",
        "ade20k_40k",
        "camvid",
        "camvid_mini",
        "cifar10",
        "cifar10_anneal",
        "cifar10_mini",
        "digits",
        "imagenet",
        "imagenet_anneal",
        "multi_label",
    ]


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        # With CB a ViT has the parameters of the plain one: tests/data/sizes.json.
        ("imagenet", 1000, 22_050_664),
        # Ti, 5,717,416 there, less 990 of 1000 classes, 132 of 197 positions, and 240
        # of 256 pixels of a patch in three colors.
        ("cifar10", 10, 5_717_416 - 990 * 193 - 132 * 192 - 240 * 3 * 192),
        # Patches 3·16·64 + 64, tokens 64 + 17·64, blocks 4·(12·64² + 13·64), norm
        # 128, head 640 + 10.
        ("digits", 10, 3136 + 1152 + 4 * 49984 + 128 + 650),
    ],
)
def test_the_network_of_a_config_has_its_parameters(name, classes, parameters):
    config = importlib.import_module(f"recipes.configs.{name}").config()
    model = build_classifier(config.network, config.data, classes, "float32")
    assert model.count_params() == parameters
    assert model.output_shape == (None, classes)


def test_a_config_says_its_command():
    for name in config_names():
        module = importlib.import_module(f"recipes.configs.{name}")
        assert f"python -m recipes.train {name}" in module.__doc__


def test_a_network_of_another_size_is_not_called_by_the_name_that_it_began_with():
    network = Network(model="vitcb_ti", depth=3)
    model = build_classifier(network, Data(), 10, "float32")
    assert (model.spec.depth, model.spec.hidden_dim) == (3, 192)
    with pytest.raises(ValueError, match="not a registered one"):
        check_publishable(model, "vitcb_ti.digits", "weights")


def test_an_image_size_that_does_not_fit_the_patches_is_refused():
    with pytest.raises(ValueError, match=r"input_shape=\(8, 10, 3\) must have"):
        build_classifier(SMALL.network, Data(image_size=(8, 10)), 10, "float32")


def test_lambda_starts_from_what_is_asked_for():
    network = dataclasses.replace(SMALL.network, broadcast="cbs", initial_scale=0.5)
    model = build_classifier(network, SMALL.data, 10, "mixed_bfloat16")
    for scale in channel_scales(model).values():
        np.testing.assert_array_equal(scale, np.full(16, 0.5))
    network = dataclasses.replace(network, broadcast="cb")
    with pytest.raises(ValueError, match="initial_scale=0.5 has no effect: vitcb has"):
        build_classifier(network, SMALL.data, 10, "float32")


def test_the_model_gives_logits_unless_told_otherwise():
    model = build_classifier(SMALL.network, SMALL.data, 10, "mixed_bfloat16")
    assert model.spec.classifier_activation is None
    assert model.dtype_policy.name == "mixed_bfloat16"
    classifier = build_classifier(SMALL.network, SMALL.data, 10, "float32", "softmax")
    assert classifier.spec.classifier_activation == "softmax"
