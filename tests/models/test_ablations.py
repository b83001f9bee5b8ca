"""What the paper compares CB with: fields of a spec, with CB or without."""

import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit import ViTSpec
from keras_cbvit.layers import (
    ContextBroadcast,
    Residual,
    SqueezeExcitation,
    UniformHeadSelfAttention,
)
from tests.compare import assert_close
from tests.gradients import gradients
from tests.tiny import fill, first_on_each_backend, predict

SMALL = {
    "input_shape": (16, 16, 3),
    "patch_size": 4,
    "hidden_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "classes": 5,
}
ABLATIONS = {
    "uniform_replaced": {"uniform_head": "replaced"},
    "uniform_compensated": {"uniform_head": "compensated"},
    "uniform_attached": {"uniform_head": "attached"},
    "squeeze_excitation": {"squeeze_excitation": True},
    "extra_msa": {"extra_branch": "msa"},
    "extra_mlp": {"extra_branch": "mlp"},
}
each_ablation = pytest.mark.parametrize("ablation", ABLATIONS)
each_broadcast = pytest.mark.parametrize("broadcast", ["none", "cb", "cbs"])


def build(ablation=None, broadcast="none", **arguments):
    changes = ABLATIONS[ablation] if ablation else {}
    return keras_cbvit.ViTCB(broadcast=broadcast, **{**SMALL, **changes, **arguments})


def pixels(count=2):
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(count, 16, 16, 3)).astype("float32")


# By hand, for 2 blocks of 24 channels and 3 heads of 8.
@each_broadcast
@pytest.mark.parametrize(
    "ablation, more",
    [
        # The queries and keys of one head.
        ("uniform_replaced", -2 * 2 * (24 * 8 + 8)),
        # Values of one more head, and its part of the projection.
        ("uniform_attached", 2 * ((24 * 8 + 8) + 8 * 24)),
        # 24 / 16 is one channel.
        ("squeeze_excitation", 2 * ((24 + 1) + (24 + 24))),
        # A norm, queries, keys, values and the projection.
        ("extra_msa", 48 + (24 * 72 + 72) + (24 * 24 + 24)),
        ("extra_mlp", 48 + (24 * 96 + 96) + (96 * 24 + 24)),
    ],
)
@pytest.mark.any_backend
def test_parameters_are_those_of_what_was_added(ablation, more, broadcast):
    found = build(ablation, broadcast).count_params()
    assert found - build(broadcast=broadcast).count_params() == more


@pytest.mark.parametrize(
    "hidden_dim, num_heads, width", [(192, 3, 77), (384, 6, 70), (768, 12, 67)]
)
def test_wider_heads_bring_the_parameters_nearest_to_the_original_s(
    hidden_dim, num_heads, width
):
    original = 4 * hidden_dim**2 + 4 * hidden_dim

    def count(head_dim):
        softmax = 3 * (num_heads - 1) * head_dim * (hidden_dim + 1)
        uniform = head_dim * (hidden_dim + 1)
        return softmax + uniform + (num_heads * head_dim + 1) * hidden_dim

    nearest = min(range(1, 200), key=lambda size: abs(count(size) - original))
    assert nearest == width
    spec = ViTSpec(
        hidden_dim=hidden_dim, num_heads=num_heads, uniform_head="compensated"
    )
    assert spec.uniform_heads == (num_heads - 1, width)


@pytest.mark.parametrize("ablation", ["extra_msa", "extra_mlp"])
def test_one_more_comes_between_the_last_block_and_the_norm(ablation):
    names = [layer.name for layer in build(ablation).layers]
    place = names.index("extra_branch")
    assert names[place - 1 : place + 2] == ["block_1", "extra_branch", "norm"]


@each_broadcast
@each_ablation
@pytest.mark.any_backend
@pytest.mark.slow
def test_a_saved_model_comes_back_with_its_values(ablation, broadcast, tmp_path):
    model = fill(build(ablation, broadcast))
    expected = predict(model, pixels())
    assert expected.shape == (2, 5)
    model.save(tmp_path / "model.keras")
    for load in (
        keras.saving.load_model,
        lambda path: keras_cbvit.ViTCB(weights=path),
    ):
        copy = load(tmp_path / "model.keras")
        assert type(copy) is type(model)
        assert copy.spec == model.spec
        assert_close(predict(copy, pixels()), expected, atol=1e-6)


@each_ablation
@pytest.mark.any_backend
def test_every_weight_is_trained(ablation):
    model = build(ablation, "cbs")
    for variable in model.trainable_variables:
        if variable.path.endswith("squeeze_excitation/fc1/bias"):
            variable.assign([1.0])  # the only unit, which may else never be active
    variables = model.trainable_variables

    def loss(x):
        losses = keras.losses.sparse_categorical_crossentropy(
            np.arange(4), model(x, training=True)
        )
        return keras.ops.sum(losses)

    _, found = gradients(loss, pixels(4), variables=variables)
    for variable, gradient in zip(variables, found, strict=True):
        assert np.abs(gradient).max() > 0, variable.path


# With CB.


def test_cb_comes_before_squeeze_and_excitation_and_layer_scale_after_both():
    model = build("squeeze_excitation", "cbs", broadcast_place="both", layer_scale=0.5)
    for block in model.blocks:
        assert [layer.name for layer in block.msa_end] == [
            "context_broadcast",
            "layer_scale",
        ]
        assert [layer.name for layer in block.mlp.end] == [
            "context_broadcast",
            "squeeze_excitation",
            "layer_scale",
        ]
    assert {path for path in model.weights_by_name() if path.startswith("block_1")} == {
        *(f"block_1/{path}" for path in _PATHS)
    }


_NORM, _DENSE = ("gamma", "beta"), ("kernel", "bias")
_PATHS = [
    *(f"norm{i}/{name}" for i in (1, 2) for name in _NORM),
    *(f"attention/{part}/{n}" for part in ("qkv", "projection") for n in _DENSE),
    "context_broadcast/scale",
    "layer_scale/gamma",
    *(f"mlp/{part}/{name}" for part in ("fc1", "fc2") for name in _DENSE),
    "mlp/context_broadcast/scale",
    *(f"mlp/squeeze_excitation/fc{i}/{name}" for i in (1, 2) for name in _DENSE),
    "mlp/layer_scale/gamma",
]


@pytest.mark.parametrize("broadcast", first_on_each_backend(["cbs", "cb"]))
@each_ablation
def test_an_ablation_with_cb_is_its_parts_one_after_the_other(ablation, broadcast):
    model = fill(build(ablation, broadcast, include_preprocessing=False))
    x = model.get_layer("token_embedding")(
        model.get_layer("patch_embedding")(pixels()), pixels()
    )
    for block in model.blocks:
        is_uniform = isinstance(block.attention, UniformHeadSelfAttention)
        assert is_uniform == ablation.startswith("uniform")
        x = x + block.attention(block.norm1(x))
        y = block.mlp.fc2(keras.ops.gelu(block.mlp.fc1(block.norm2(x)), False))
        cb, *others = block.mlp.end
        assert isinstance(cb, ContextBroadcast)
        assert cb.scale == (broadcast == "cbs")
        y = cb(y)
        if ablation == "squeeze_excitation":
            (excitation,) = others
            assert isinstance(excitation, SqueezeExcitation)
            y = excitation(y)
        x = x + y
    if ablation.startswith("extra"):
        extra = model.get_layer("extra_branch")
        assert isinstance(extra, Residual)
        x = x + extra.branch(extra.norm(x))
    x = model.get_layer("norm")(x)[:, 0]
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(model.head(x)))
    assert_close(predict(model, pixels()), expected, atol=1e-5)
    plain = fill(build(ablation, include_preprocessing=False))
    assert np.abs(predict(plain, pixels()) - expected).max() > 1e-3


@pytest.mark.any_backend
def test_several_go_together():
    model = fill(
        keras_cbvit.ViTCB(
            **SMALL,
            uniform_head="attached",
            squeeze_excitation=True,
            extra_branch="msa",
            layer_scale=0.1,
            num_register_tokens=2,
        )
    )
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(predict(copy, pixels()), predict(model, pixels()))


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="uniform_head='se' is unknown; use one of"):
        build(uniform_head="se")
    with pytest.raises(ValueError, match="num_heads=1 leaves no softmax head"):
        build("uniform_replaced", num_heads=1)
