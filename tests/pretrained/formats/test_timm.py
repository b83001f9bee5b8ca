import re

import keras
import numpy as np
import pytest

import keras_cbvit
from tests.compare import assert_close
from tests.tiny import assert_same_values, tiny, values


class Tensor:
    """As a bfloat16 tensor of torch on a GPU that records gradients."""

    def __init__(self, array, steps=("detach", "cpu", "float")):
        self.array, self.steps = array, steps
        self.shape = array.shape

    def _step(self, name):
        assert self.steps[0] == name
        rest = self.steps[1:]
        return Tensor(self.array, rest) if rest else self.array

    def detach(self):
        return self._step("detach")

    def cpu(self):
        return self._step("cpu")

    def float(self):
        return self._step("float")

    def __array__(self, *arguments, **_):
        raise TypeError("Can't convert a tensor like this to NumPy.")


@pytest.mark.parametrize("kind", [np.asarray, Tensor])
def test_weights_of_timm_give_its_predictions(
    kind, oracle, oracle_arguments, timm_state
):
    model = keras_cbvit.ViTCB(broadcast="none", **oracle_arguments)
    state = {name: kind(array) for name, array in timm_state.items()}
    keras_cbvit.load_timm_weights(model, state)
    logits = model(oracle["images"].astype("float32"))
    assert_close(logits, oracle["plain/logits"], atol=1e-5)


def test_a_cbs_model_predicts_with_them_as_the_plain_one_does(
    oracle, oracle_arguments, timm_state
):
    model = keras_cbvit.ViTCB(broadcast="cbs", **oracle_arguments)
    keras_cbvit.load_timm_weights(model, timm_state)
    logits = model(oracle["images"].astype("float32"))
    assert_close(logits, oracle["plain/logits"], atol=1e-5)


def test_a_cbs_model_keeps_its_scale(oracle, oracle_arguments, timm_state):
    model = keras_cbvit.ViTCB(broadcast="cbs", **oracle_arguments)
    for i, scale in enumerate(oracle["scales"]):
        model.blocks[i].mlp.end[0].channel_scale.assign(scale)
    keras_cbvit.load_timm_weights(model, timm_state)
    logits = model(oracle["images"].astype("float32"))
    assert_close(logits, oracle["cbs_mlp_end/logits"], atol=1e-5)


@pytest.fixture
def state():
    """A state dict for the tiny model, and with `blocks.1` of shapes of its own."""
    rng = np.random.default_rng(0)
    block = {
        "norm1.weight": (16,),
        "norm1.bias": (16,),
        "attn.qkv.weight": (48, 16),
        "attn.qkv.bias": (48,),
        "attn.proj.weight": (16, 16),
        "attn.proj.bias": (16,),
        "norm2.weight": (16,),
        "norm2.bias": (16,),
        "mlp.fc1.weight": (32, 16),
        "mlp.fc1.bias": (32,),
        "mlp.fc2.weight": (16, 32),
        "mlp.fc2.bias": (16,),
    }
    shapes = {
        "cls_token": (1, 1, 16),
        "pos_embed": (1, 7, 16),
        "patch_embed.proj.weight": (16, 3, 4, 4),
        "patch_embed.proj.bias": (16,),
        **{f"blocks.{i}.{key}": shape for i in (0, 1) for key, shape in block.items()},
        "norm.weight": (16,),
        "norm.bias": (16,),
        "head.weight": (3, 16),
        "head.bias": (3,),
    }
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def test_every_weight_is_copied_with_its_axes_in_our_order(state):
    model = tiny(broadcast="none")
    keras_cbvit.load_timm_weights(model, state)
    found = values(model)
    state = {name: array.astype("float32") for name, array in state.items()}
    for path, expected in {
        "block_1/attention/qkv/kernel": state["blocks.1.attn.qkv.weight"].T,
        "block_1/mlp/fc2/kernel": state["blocks.1.mlp.fc2.weight"].T,
        "block_0/norm2/gamma": state["blocks.0.norm2.weight"],
        "block_0/norm2/beta": state["blocks.0.norm2.bias"],
        "head/kernel": state["head.weight"].T,
    }.items():
        np.testing.assert_array_equal(found[path], expected)
    kernel = found["patch_embedding/projection/kernel"].reshape(4, 4, 3, 16)
    filters = state["patch_embed.proj.weight"]  # (out, channel, row, column)
    assert kernel[1, 2, 0, 5] == filters[5, 0, 1, 2]
    assert kernel[3, 0, 2, 7] == filters[7, 2, 3, 0]


def test_a_model_without_a_head_takes_a_state_dict_without_one(state):
    model = tiny(broadcast="none", include_top=False, classes=None)
    with pytest.raises(ValueError, match=r"leave out head\.weight and head\.bias"):
        keras_cbvit.load_timm_weights(model, state)
    del state["head.weight"], state["head.bias"]
    keras_cbvit.load_timm_weights(model, state)
    assert_close(model.get_layer("norm").gamma, state["norm.weight"])


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"cls_token": None, "blocks.1.mlp.fc1.bias": None},
            "Missing: blocks.1.mlp.fc1.bias, cls_token.",
        ),
        (
            {"dist_token": (1, 1, 16), "blocks.2.norm1.bias": (16,)},
            "Left over: blocks.2.norm1.bias, dist_token.",
        ),
        (
            {"pos_embed": (1, 10, 16), "blocks.0.mlp.fc1.weight": (64, 16)},
            "Of another shape: block_0/mlp/fc1/kernel (16, 64) for (16, 32), "
            "token_embedding/position_embedding (1, 10, 16) for (1, 7, 16).",
        ),
        (
            {"patch_embed.proj.weight": (16, 3, 8, 8)},
            "Of another shape: patch_embedding/projection/kernel (192, 16) for "
            "(48, 16).",
        ),
        (
            {"norm.bias": None, "fc_norm.bias": (16,), "head.bias": (5,)},
            "Missing: norm.bias; left over: fc_norm.bias; of another shape: head/bias "
            "(5,) for (3,).",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_copied(changes, message, state):
    for name, shape in changes.items():
        state.pop(name, None)
        if shape is not None:
            state[name] = np.zeros(shape)
    model = tiny()
    before = values(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        keras_cbvit.load_timm_weights(model, state)
    assert_same_values(values(model), before)


def test_a_model_in_a_name_scope_takes_them(state):
    with keras.name_scope("teacher"):
        model = tiny(broadcast="none")
    keras_cbvit.load_timm_weights(model, state)
    assert_close(model.get_layer("norm").gamma, state["norm.weight"])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("deit.pth", "state_dict is a str, not weights by name; read a file with"),
        (
            {"model": {}},
            r"is a whole checkpoint; give its weights, state_dict\['model'",
        ),
    ],
)
def test_what_is_not_a_state_dict_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        keras_cbvit.load_timm_weights(tiny(), wrong)


def test_a_model_that_is_not_of_this_package_is_refused(state):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="model is a Sequential, not a VisionTransfor"):
        keras_cbvit.load_timm_weights(model, state)


@pytest.mark.parametrize(
    "changes", [{"broadcast": "cb"}, {"broadcast": "none", "pooling": "avg"}]
)
def test_a_model_that_computes_something_else_is_refused(
    changes, oracle_arguments, timm_state
):
    model = keras_cbvit.ViTCB(**{**oracle_arguments, **changes})
    with pytest.raises(ValueError, match="something else.*allow_other_function"):
        keras_cbvit.load_timm_weights(model, timm_state)
    keras_cbvit.load_timm_weights(model, timm_state, allow_other_function=True)


def test_values_that_are_not_finite_are_refused(oracle_arguments, timm_state):
    model = keras_cbvit.ViTCB(**{**oracle_arguments, "broadcast": "none"})
    state = {
        **timm_state,
        "norm.weight": np.full_like(timm_state["norm.weight"], np.nan),
    }
    with pytest.raises(
        ValueError, match=r"norm\.weight of the state dict is not finite"
    ):
        keras_cbvit.load_timm_weights(model, state)


def test_a_model_with_other_weights_beside_its_own_is_refused(
    oracle_arguments, timm_state
):
    model = keras_cbvit.ViTCB(**{**oracle_arguments, "broadcast": "none"})
    model.blocks[1].mlp.fc1.enable_lora(2)
    before = values(model)
    with pytest.raises(ValueError, match="Missing: block_1/mlp/fc1/lora_kernel_a, bl"):
        keras_cbvit.load_timm_weights(model, timm_state)
    assert_same_values(values(model), before)
    model.get_layer("head").quantize("int8")
    with pytest.raises(ValueError, match="quantized; load the weights before it is"):
        keras_cbvit.load_timm_weights(model, timm_state)


@pytest.mark.parametrize(
    "changes, messages",
    [
        ({"uniform_head": "attached"}, ["Missing: block_0/attention/uniform_value/b"]),
        ({"extra_branch": "mlp"}, ["Missing: extra_branch/mlp/fc1/bias"]),
        ({"squeeze_excitation": True}, ["Missing: block_0/mlp/squeeze_excitation/fc1"]),
        ({"layer_scale": 1.0}, ["Missing: blocks.0.ls1.gamma, blocks.0.ls2.gamma"]),
        ({"num_register_tokens": 2}, ["Missing: reg_token"]),
    ],
)
def test_a_model_of_more_parts_than_the_state_dict_is_refused(changes, messages, state):
    model = tiny(broadcast="none", **changes)
    for allowed in (False, True):
        with pytest.raises(ValueError) as error:
            keras_cbvit.load_timm_weights(model, state, allow_other_function=allowed)
        for message in messages:
            assert message in str(error.value)


def test_layer_scale_and_register_tokens_of_a_state_dict_need_a_model_of_them(state):
    state |= {f"blocks.{i}.ls{j}.gamma": np.ones(16) for i in (0, 1) for j in (1, 2)}
    message = "Left over: blocks.0.ls1.gamma, blocks.0.ls2.gamma, blocks.1.ls1.gamma, "
    with pytest.raises(ValueError, match=message):
        keras_cbvit.load_timm_weights(tiny(broadcast="none"), state)
    state["reg_token"] = np.zeros((1, 2, 16))
    model = tiny(broadcast="none", layer_scale=1e-5)
    with pytest.raises(ValueError, match="Left over: reg_token"):
        keras_cbvit.load_timm_weights(model, state)
    del state["reg_token"]
    keras_cbvit.load_timm_weights(model, state)
    assert (values(model)["block_1/mlp/layer_scale/gamma"] == 1).all()
