import json
from pathlib import Path

import keras
import pytest

import keras_cbvit
from keras_cbvit.analysis import Cost, layer_costs, total_cost
from keras_cbvit.layers import (
    EncoderBlock,
    MultiHeadSelfAttention,
    Residual,
    SqueezeExcitation,
    UniformHeadSelfAttention,
)
from tests.tiny import tiny

SIZES = json.loads((Path(__file__).parents[1] / "data" / "sizes.json").read_text())
# By hand, of `tests.tiny`: 6 patches of 4x4x3 pixels, 7 tokens of 16 channels in 2
# heads, 32 hidden channels, 3 classes.
PATCHES = 6 * 48 * 16
ATTENTION = 7 * 16 * 48 + 2 * 7 * 7 * 16 + 7 * 16 * 16
MLP = 2 * 7 * 16 * 32
NORMS = 2 * 2 * 16
PARAMETERS = NORMS + 16 * 48 + 48 + 16 * 16 + 16 + 2 * 16 * 32 + 32 + 16
MEAN_AND_SUM = 7 * 16 + 16 + 7 * 16


def cost_of(layer):
    """The cost of a layer of 7 tokens with 16 channels."""
    tokens = keras.Input((7, 16), name="tokens")
    return layer_costs(keras.Model(tokens, layer(tokens)))[layer.name]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.any_backend
def test_costs_are_those_of_timms_deit(size):
    model = getattr(keras_cbvit, f"ViTCB_{size}")()
    total = total_cost(model)
    assert total.matmul_macs == SIZES[size]["matmul_macs"]
    assert total.parameters == SIZES[size]["params"]


def test_the_scale_of_cb_s_is_counted():
    total = total_cost(keras_cbvit.ViTCB_Ti(broadcast="cbs"))
    expected = SIZES["Ti"]["params"] + SIZES["Ti"]["cbs_extra_params"]
    assert total.parameters == expected
    # 12 blocks, 197 tokens, 192 channels.
    assert total.context_macs == 12 * (2 * 197 + 1) * 192


def test_the_costs_of_every_layer():
    assert layer_costs(tiny(broadcast="none")) == {
        "images": Cost(),
        "normalization": Cost(),
        "patch_embedding": Cost(PATCHES, 0, 48 * 16 + 16),
        "token_embedding": Cost(0, 0, 16 + 7 * 16),
        "block_0": Cost(ATTENTION + MLP, 0, PARAMETERS),
        "block_1": Cost(ATTENTION + MLP, 0, PARAMETERS),
        "norm": Cost(0, 0, 2 * 16),
        "pool": Cost(),
        "head": Cost(16 * 3, 0, 16 * 3 + 3),
        "predictions": Cost(),
    }


@pytest.mark.parametrize(
    ("changes", "context", "parameters"),
    [
        ({"broadcast": "cb"}, MEAN_AND_SUM, 0),
        ({"broadcast": "cbs"}, MEAN_AND_SUM, 16),
        ({"broadcast_place": "mlp_mid"}, 2 * MEAN_AND_SUM, 0),
        ({"broadcast_place": "both"}, 2 * MEAN_AND_SUM, 0),
        ({"context": "max"}, MEAN_AND_SUM, 0),
        ({"context": "token"}, 16 + 7 * 16, 0),
    ],
)
def test_what_gives_context_is_counted_apart(changes, context, parameters):
    model = tiny(**{"broadcast": "cb", "broadcast_blocks": [1], **changes})
    costs = layer_costs(model)
    assert costs["block_0"] == Cost(ATTENTION + MLP, 0, PARAMETERS)
    assert costs["block_1"] == Cost(ATTENTION + MLP, context, PARAMETERS + parameters)


@pytest.mark.parametrize(
    ("changes", "matmul", "context", "parameters"),
    [
        # A token more: 7 * 2 more products of attention, and what is multiplied.
        (
            {"num_register_tokens": 1},
            16 * (48 + 16 + 2 * 32) + 2 * (8 * 8 - 7 * 7) * 16,
            0,
            0,
        ),
        ({"layer_scale": 0.1}, 0, 0, 2 * 16),
        # 16 / 16 is one channel.
        ({"squeeze_excitation": True}, 0, MEAN_AND_SUM + 16 + 16, 16 + 1 + 16 + 16),
    ],
)
def test_other_parts_of_a_block_are_counted(changes, matmul, context, parameters):
    model = tiny(broadcast="none", **changes)
    assert layer_costs(model)["block_1"] == Cost(
        ATTENTION + MLP + matmul, context, PARAMETERS + parameters
    )
    assert total_cost(model).parameters == model.count_params()


def test_a_model_of_any_size_is_refused():
    model = tiny(input_shape=(None, None, 3))
    with pytest.raises(ValueError, match="patch_embedding is built for images of any"):
        total_cost(model)


def test_squeeze_and_excitation_is_applied_to_one_vector():
    found = cost_of(EncoderBlock(2, 32, mlp_end=SqueezeExcitation(ratio=4)))
    dense = 16 * 4 + 4 * 16
    assert found == Cost(
        ATTENTION + MLP, MEAN_AND_SUM + dense, PARAMETERS + dense + 4 + 16
    )


def test_a_uniform_head_is_applied_to_one_vector():
    # One head with softmax, of 8 channels, and the uniform one.
    found = cost_of(UniformHeadSelfAttention(1, 8))
    matmul = 7 * 16 * 24 + 2 * 7 * 7 * 8 + 16 * 8 + 7 * 16 * 16
    parameters = 16 * 24 + 24 + 16 * 8 + 8 + 16 * 16 + 16
    assert found == Cost(matmul, 7 * 16 + 16, parameters)


def test_one_more_msa_is_counted():
    found = cost_of(Residual(MultiHeadSelfAttention(2)))
    assert found == Cost(ATTENTION, 0, 2 * 16 + 16 * 48 + 48 + 16 * 16 + 16)


def test_a_kernel_that_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="conv1d, a Conv1D; only dense"):
        cost_of(keras.layers.Conv1D(3, 2, name="conv1d"))


def test_a_model_from_a_file_is_counted_alike(tmp_path):
    model = tiny(broadcast="cbs")
    model.save(tmp_path / "model.keras")
    assert layer_costs(keras.saving.load_model(tmp_path / "model.keras")) == (
        layer_costs(model)
    )
