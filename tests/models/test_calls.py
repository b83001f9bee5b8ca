"""How often Keras's `Layer.__call__` runs: once a block, whatever is in it.

It takes about 0.1 ms on torch, as long as a small product of matrices.
"""

import collections

import keras
import numpy as np
import pytest

import keras_cbvit
from tests.tiny import tiny

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
# The model itself, normalization, patches, tokens, norm, pool, head and activation.
BESIDE_BLOCKS = 8


@pytest.fixture
def called(monkeypatch):
    """The names of the layers that a model calls, with how often, in a forward pass."""
    real = keras.layers.Layer.__call__

    def calls(model, **options):
        counts = collections.Counter()

        def counted(layer, *args, **kwargs):
            counts[layer.name] += 1
            return real(layer, *args, **kwargs)

        sides = (8 if side is None else side for side in model.input_shape[1:3])
        x = np.zeros((1, *sides, 3), "float32")
        model(x, **options)  # builds what is built once
        monkeypatch.setattr(keras.layers.Layer, "__call__", counted)
        model(x, **options)
        monkeypatch.undo()
        return counts

    return calls


@pytest.mark.parametrize("options", [{}, {"training": True}])
@pytest.mark.parametrize(
    "changes",
    [
        {"broadcast": "none"},
        {"broadcast": "cbs", "broadcast_place": "both", "drop_path_rate": 0.5},
        {"uniform_head": "attached", "squeeze_excitation": True, "layer_scale": 0.1},
        {"num_register_tokens": 2, "dtype": "mixed_bfloat16"},
        {"input_shape": (None, None, 3)},
    ],
)
@pytest.mark.any_backend
def test_a_block_is_one_call(changes, options, called):
    counts = called(tiny(depth=3, **changes), **options)
    assert [counts[f"block_{i}"] for i in range(3)] == [1, 1, 1]
    assert counts.total() == BESIDE_BLOCKS + 3


def test_a_vit_of_twelve_blocks_takes_twenty(called):
    model = keras_cbvit.ViTCB_Ti(input_shape=(32, 32, 3), weights=None)
    assert called(model).total() == BESIDE_BLOCKS + 12 == 20  # 153 before


def test_one_more_branch_is_one_call(called):
    counts = called(tiny(depth=2, extra_branch="msa"))
    assert counts["extra_branch"] == 1
    assert counts.total() == BESIDE_BLOCKS + 2 + 1


def test_quantized_parts_are_called_by_keras(called):
    model = tiny(depth=2)
    model.quantize("int8")
    counts = called(model)
    parts = ("qkv", "projection", "fc1", "fc2")
    # The patch embedding has a projection, too.
    assert [counts[part] for part in parts] == [2, 2 + 1, 2, 2]
    assert counts.total() == BESIDE_BLOCKS + 2 + 4 * 2 + 1


def test_parts_that_are_not_this_packages_are_called_by_keras():
    block = keras_cbvit.layers.EncoderBlock(
        2, 8, mlp_end=keras.layers.Rescaling(2.0, name="theirs")
    )
    inputs = keras.Input((8, 3))
    x = keras.layers.Dense(4, name="dense")(inputs)
    model = keras.Model(inputs, block(x))
    counts = collections.Counter()
    real = keras.layers.Layer.__call__

    def counted(layer, *args, **kwargs):
        counts[layer.name] += 1
        return real(layer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.layers.Layer, "__call__", counted)
        model(np.zeros((1, 8, 3), "float32"))
    assert counts["theirs"] == 1
    assert counts.total() == 4
