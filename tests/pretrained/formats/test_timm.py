import re

import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.models.vision_transformer import VisionTransformer
from keras_cbvit.pretrained import loading
from keras_cbvit.pretrained.formats import timm
from tests.compare import assert_close, assert_equal, to_numpy
from tests.pretrained.deit_weights import state_of
from tests.tiny import predict, tiny


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

    def is_floating_point(self):
        return True

    def element_size(self):
        return 2

    def __array__(self, *arguments, **_):
        raise TypeError("Can't convert a tensor like this to NumPy.")


@pytest.mark.parametrize("kind", [np.asarray, Tensor])
@pytest.mark.parametrize("broadcast", ["none", "cbs"])
def test_a_state_dict_gives_timms_predictions(
    broadcast, kind, oracle, oracle_arguments, timm_state
):
    state = {name: kind(array) for name, array in timm_state.items()}
    model = keras_cbvit.ViTCB(weights=state, broadcast=broadcast, **oracle_arguments)
    logits = model(oracle["images"].astype("float32"))
    assert_close(logits, oracle["plain/logits"], atol=1e-5)


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


def load(state, **changes):
    """The tiny model with the weights of a state dict."""
    return tiny(**{"weights": state, "broadcast": "none", **changes})


def test_every_weight_is_copied_with_its_axes_in_our_order(state):
    found = load(state).weights_by_name()
    state = {name: array.astype("float32") for name, array in state.items()}
    for path, expected in {
        "block_1/attention/qkv/kernel": state["blocks.1.attn.qkv.weight"].T,
        "block_1/mlp/fc2/kernel": state["blocks.1.mlp.fc2.weight"].T,
        "block_0/norm2/gamma": state["blocks.0.norm2.weight"],
        "block_0/norm2/beta": state["blocks.0.norm2.bias"],
        "head/kernel": state["head.weight"].T,
    }.items():
        assert_equal(found[path], expected)
    kernel = to_numpy(found["patch_embedding/projection/kernel"]).reshape(4, 4, 3, 16)
    filters = state["patch_embed.proj.weight"]  # (out, channel, row, column)
    assert kernel[1, 2, 0, 5] == filters[5, 0, 1, 2]
    assert kernel[3, 0, 2, 7] == filters[7, 2, 3, 0]


def test_the_number_of_heads_is_known_where_it_is_usual_or_given(state):
    with pytest.raises(ValueError, match="does not specify its number of heads"):
        keras_cbvit.ViTCB(weights=state, input_shape=(8, 12, 3))
    wide = {"weights": state_of(128, depth=1, patch_size=4, tokens=5, classes=2)}
    assert keras_cbvit.ViTCB(**wide).spec.num_heads == 2
    assert keras_cbvit.ViTCB(**wide, num_heads=4, epsilon=1e-3).spec.epsilon == 1e-3


def test_a_grid_that_is_no_square_is_given(state):
    with pytest.raises(ValueError, match="has 7 positions, which do not form a square"):
        keras_cbvit.ViTCB(weights=state, num_heads=2)
    grid = {"input_shape": (None, None, 3), "position_grid": (2, 3)}
    assert keras_cbvit.ViTCB(weights=state, num_heads=2, **grid).spec.grid == (2, 3)


def test_what_the_configuration_says_is_not_overruled(state):
    config = {
        "architecture": "vit_base_patch16_clip_quickgelu_224",
        "model_args": {"num_heads": 2, "img_size": [8, 12]},
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3},
        "label_names": ["cat", "dog", "emu"],
    }
    content = timm.read(state, config, "x", {"num_heads": 4, "epsilon": 1e-3})
    spec = content.spec
    assert (spec.num_heads, spec.epsilon, spec.activation) == (2, 1e-5, "quick_gelu")
    assert (spec.mean[0], spec.std[0]) == (0.5, 0.25)
    assert content.class_names == ("cat", "dog", "emu")
    with pytest.raises(ValueError, match="have num_heads=2, not 4"):
        loading.merge(content, {"num_heads": 4})
    for change in (
        {"epsilon": 1e-6},
        {"activation": "gelu"},
        {"mean": (0.4,) * 3},
        {"std": (0.2,) * 3},
    ):
        model = VisionTransformer(loading.merge(content, change))
        with pytest.raises(ValueError, match=f"a model with {next(iter(change))}="):
            loading.assign(model, content)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"cls_token": None, "pos_embed": (1, 6, 16)},
            "have class_token=False, not True",
        ),
        ({"cls_token": None}, "has 7 positions, which do not form a square"),
        ({"dist_token": (1, 1, 16)}, "has 7 positions, which do not form a square"),
        ({"reg_token": (1, 1, 16)}, "has 7 positions, which do not form a square"),
        ({"blocks.1.mlp.fc1.bias": None}, "Missing: blocks.1.mlp.fc1.bias."),
        ({"blocks.2.norm1.bias": (16,)}, "have depth=3, not 2"),
        ({"fc_norm.bias": (16,)}, "the state dict has the weights fc_norm.bias, which"),
        (
            {"patch_embed.proj.weight": (16, 3, 8, 8), "pos_embed": (1, 5, 16)},
            "have patch_size=8, not 4",
        ),
        ({"blocks.0.mlp.fc1.weight": (48, 16)}, "shape: block_0/mlp/fc1/kernel"),
        ({"norm.weight": None}, "no norm after the last block"),
        ({"blocks.0.norm1.bias": None}, "norms without bias (RMSNorm)"),
        ({"patch_embed.proj.weight": (16, 3, 4, 8)}, "patches of (4, 8) pixels"),
        ({"blocks.0.attn.q_bias": (16,)}, "queries, keys and values apart"),
    ],
)
def test_what_does_not_fit_is_named(changes, message, state):
    for name, shape in changes.items():
        state.pop(name, None)
        if shape is not None:
            state[name] = np.zeros(shape)
    arguments = {"class_token": True}
    with pytest.raises(ValueError, match=re.escape(message)):
        load(state, **arguments)


def test_a_model_that_computes_something_else_is_refused(state):
    for changes in ({"broadcast": "cb"}, {"pooling": "avg"}):
        with pytest.raises(ValueError, match="allow_other_function|anneal"):
            load(state, **changes)
        load(state, **changes, allow_other_function=True)


def test_values_that_are_not_finite_are_refused(state):
    state["norm.weight"] = np.full(16, np.nan)
    with pytest.raises(ValueError, match="norm.weight of the state dict is not"):
        load(state)


def test_layer_scale_comes_with_its_weights(state):
    names = [f"blocks.{i}.ls{j}.gamma" for i in (0, 1) for j in (1, 2)]
    scales = dict.fromkeys(names, np.full(16, 2.0))
    model = load(state | scales)
    assert model.spec.layer_scale is not None
    folded = load(state | scales, fold_layer_scale=True)
    assert_close(predict(folded), predict(model))
    original = {re.sub(r"ls(.)\.gamma", r"gamma_\1", k): v for k, v in scales.items()}
    assert_close(predict(load(state | original)), predict(model), atol=0)


def square(patches=16, dim=64):
    return state_of(dim, depth=1, patch_size=4, tokens=1 + patches, classes=3)


@pytest.mark.parametrize(
    "state, given, grid, positioned",
    [
        (square(), {}, (4, 4), True),
        # Another size is that to resample for, even of as many patches.
        (square(), {"input_shape": (8, 32, 3)}, (4, 4), True),
        (
            square(),
            {"input_shape": (None, None, 3), "position_grid": (2, 8)},
            (2, 8),
            True,
        ),
        # 25 positions may be those of 5x5 patches alone.
        (square(24), {}, (5, 5), False),
        (square(24), {"input_shape": (16, 24, 3)}, (4, 6), True),
        (square(1), {}, (1, 1), True),
    ],
)
@pytest.mark.parametrize("config", [None, {"input_size": [3, 224, 224]}])
def test_the_grid_of_the_position_embedding(state, given, grid, positioned, config):
    spec = timm.read(state, config, "x", given).spec
    assert (spec.grid, spec.prefix_position_embedding) == (grid, positioned)


@pytest.mark.parametrize(
    "architecture, arguments, given, heads",
    [
        ("vit_base_patch16_224", {}, {}, 6),
        ("vit_base_patch16_224", {"embed_dim": 384}, {}, 12),
        ("vit_base_patch16_224", {"embed_dim": 384, "num_heads": 4}, {}, 4),
        ("vit_so150m_patch16", {"embed_dim": 384}, {"num_heads": 8}, 8),
    ],
)
def test_the_heads_of_a_configuration_with_another_width(
    architecture, arguments, given, heads
):
    config = {"architecture": architecture, "model_args": arguments}
    assert timm.read(square(dim=384), config, "x", given).spec.num_heads == heads


def test_what_the_weights_replace_may_be_given():
    model = tiny(layer_scale=0.5, broadcast="none", mlp_ratio=2)
    same = keras_cbvit.ViTCB(weights=model, layer_scale=1e-5, mlp_ratio=2.03)
    assert_equal(predict(same), predict(model))
    with pytest.raises(ValueError, match="have mlp_ratio=2, not 2.1"):
        keras_cbvit.ViTCB(weights=model, mlp_ratio=2.1)
    plain = tiny(broadcast="none")
    with pytest.raises(ValueError, match="layer_scale"):
        keras_cbvit.ViTCB(weights=plain, layer_scale=1e-5)
