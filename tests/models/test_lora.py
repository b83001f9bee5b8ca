"""LoRA: what is trained, what is computed, and what is left of it once it is merged."""

import keras
import numpy as np
import pytest

import keras_cbvit
from tests.models.test_fine_tuning import trained, with_own_head
from tests.models.test_quantization import upernet
from tests.tiny import (
    QUANTIZED_FILES,
    assert_same_values,
    fill,
    images,
    predict,
    tiny,
    train,
    values,
)

TARGETS = "attention/qkv", "attention/projection", "mlp/fc1", "mlp/fc2"
HEAD = {"head/kernel", "head/bias"}


def adapters(blocks=(0, 1), targets=TARGETS):
    return {
        f"block_{i}/{layer}/lora_kernel_{each}"
        for i in blocks
        for layer in targets
        for each in "ab"
    }


def fill_lora(model, seed=3, scale=0.3):
    """Gives LoRA random values; those it starts with change nothing."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if "lora" in weight.path:
            weight.assign(random.normal(scale=scale, size=weight.shape))
    return model


def count(model):
    return sum(np.size(weight.numpy()) for weight in model.trainable_weights)


def frozen_model(model):
    model.trainable = False


def frozen_weights(model):
    for weight in model.weights:
        weight.trainable = False


def frozen_head(model):
    model.head.trainable = False


BEFORE = {
    "nothing": lambda model: None,
    "model": frozen_model,
    "backbone": keras_cbvit.freeze_backbone,
    "weights": frozen_weights,
    "head": frozen_head,
}


@pytest.mark.parametrize("before", BEFORE)
def test_lora_and_the_head_are_trained_whatever_was_frozen(before):
    model = tiny()
    BEFORE[before](model)
    number = keras_cbvit.enable_lora(model, 2)
    assert trained(model) == adapters() | HEAD
    # Of qkv, projection, fc1 and fc2, each 2 * (in + out), in 2 blocks; 16 * 3 + 3.
    assert number == count(model) == 2 * 2 * (64 + 32 + 48 + 48) + 51
    # And what freezes and unfreezes works on a model with LoRA.
    keras_cbvit.freeze_backbone(model)
    assert trained(model) == HEAD
    keras_cbvit.unfreeze(model)
    assert trained(model) == {weight.path for weight in model.weights}
    assert keras_cbvit.enable_lora(model, 2) == number
    assert trained(model) == adapters() | HEAD


@pytest.mark.any_backend
def test_some_layers_of_some_blocks():
    model = tiny(depth=3)
    keras_cbvit.enable_lora(model, 1, ["qkv", "fc2"], blocks=range(1, 3))
    wanted = adapters((1, 2), ("attention/qkv", "mlp/fc2"))
    assert trained(model) == wanted | HEAD
    assert {each for each in values(model) if "lora" in each} == wanted


@pytest.mark.any_backend
@pytest.mark.parametrize("alpha", [None, 5])
def test_the_product_is_added_to_the_kernel(alpha):
    model, plain = fill(tiny()), fill(tiny())
    np.testing.assert_array_equal(predict(model), predict(plain))
    keras_cbvit.enable_lora(model, 2, alpha=alpha)
    np.testing.assert_allclose(predict(model), predict(plain), atol=1e-6)
    found = values(fill_lora(model))
    factor = 1 if alpha is None else alpha / 2
    weights = plain.weights_by_name()
    for name in [name for name in found if name.endswith("lora_kernel_a")]:
        layer = name.removesuffix("/lora_kernel_a")
        product = found[name] @ found[f"{layer}/lora_kernel_b"]
        kernel = weights[f"{layer}/kernel"]
        kernel.assign(kernel.numpy() + factor * product)
    assert np.abs(predict(model) - predict(fill(tiny()))).max() > 0.01
    np.testing.assert_allclose(predict(model), predict(plain), atol=1e-5)
    # So are the merged kernels, and the weights have no other names than before.
    keras_cbvit.merge_lora(model)
    assert values(model).keys() == values(plain).keys()
    for name, value in values(plain).items():
        np.testing.assert_allclose(values(model)[name], value, atol=1e-6)


@keras.saving.register_keras_serializable(package="test_lora")
class OwnTransformer(keras_cbvit.VisionTransformer):
    """A subclass whose second block is without CB."""

    @classmethod
    def encoder_block(cls, i, spec, dtype):
        spec = spec.replace(broadcast="none") if i == 1 else spec
        return super().encoder_block(i, spec, dtype)


def clone():
    model = fill(tiny())
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


KINDS = {
    "classifier": lambda: fill(tiny()),
    "CB_S everywhere": lambda: fill(tiny(broadcast="cbs", broadcast_place="both")),
    "features": lambda: fill(tiny(classes=None, include_top=False)),
    "distilled": lambda: fill(tiny(distillation_token=True, pooling="distilled")),
    "DINOv2-like": lambda: fill(
        tiny(activation="swiglu", num_register_tokens=2, layer_scale=0.5, qk_norm=True)
    ),
    "uniform head": lambda: fill(tiny(uniform_head="attached")),
    "squeeze and excitation": lambda: fill(tiny(squeeze_excitation=True)),
    "UperNet": upernet,
    "subclass": lambda: fill(OwnTransformer(tiny().spec)),
    "clone": clone,
    "own head": lambda: fill(with_own_head(tiny(classes=None, include_top=False))),
}


def inputs(model):
    height, width = (side or 8 for side in model.input_shape[1:3])
    return np.random.default_rng(1).uniform(0, 255, (2, height, width, 3))


@pytest.mark.any_backend
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_merged_and_comes_back_from_files(name, tmp_path):
    model, base = KINDS[name](), KINDS[name]()
    before = values(model)
    x = inputs(model)
    plain = predict(model, x)
    keras_cbvit.enable_lora(model, 2)
    fill_lora(model)
    expected = predict(model, x)
    assert np.abs(expected - plain).max() > 1e-3 * np.abs(plain).max()

    keras_cbvit.save_lora_weights(model, tmp_path / "model.lora.h5")
    keras_cbvit.load_lora_weights(base, tmp_path / "model.lora.h5")
    np.testing.assert_array_equal(predict(base, x), expected)
    assert trained(base) == trained(model)

    keras_cbvit.merge_lora(model)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(predict(model, x), expected, atol=2e-6 * scale)
    assert values(model).keys() == before.keys()
    model.save(tmp_path / "model.keras")
    loaded = keras_cbvit.load_model(tmp_path / "model.keras")
    assert_same_values(values(loaded), values(model))


CONDITIONS = {
    "remat": {"remat": True},
    "bfloat16": {"dtype": "mixed_bfloat16"},
    "float16": {"dtype": "mixed_float16"},
    "Λ": {"broadcast": "cbs"},
    "int8": {},
    "int4": {},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize(
    "name",
    [
        # Each compiles.
        pytest.param(
            name,
            marks=[
                *([] if name == "int8" else [pytest.mark.any_backend]),
                *([QUANTIZED_FILES] if name.startswith("int") else []),
            ],
        )
        for name in CONDITIONS
    ],
)
def test_training_changes_lora_and_the_head_alone(name):
    model = fill(tiny(depth=1, **CONDITIONS[name]))
    if name.startswith("int"):
        model.quantize(name, filters=lambda layer: layer.name != "head")
    model.predict(images(model), verbose=0)  # a function that LoRA makes stale
    number = keras_cbvit.enable_lora(model, 2, train_scale=name == "Λ")
    assert number == count(model)
    fill_lora(model, scale=0.01)  # while b is 0, a has no gradient
    before, layers = values(model), trained(model)
    assert layers - HEAD == adapters((0,)) | (
        {"block_0/mlp/context_broadcast/scale"} if name == "Λ" else set()
    )
    train(model)
    after = values(model)
    assert {path for path in before if (before[path] != after[path]).any()} == layers
    assert all(np.isfinite(after[path]).all() for path in layers)
    fill_lora(model)
    found = model.predict(images(model), verbose=0)
    np.testing.assert_allclose(found, predict(model), atol=2e-2)
    again = fill_lora(model, seed=4)
    assert np.abs(again.predict(images(model), verbose=0) - found).max() > 1e-3


@pytest.mark.any_backend
@pytest.mark.parametrize("how", ["merged", "saved", "weights saved"])
def test_mixed_precision_does_not_round_the_sum(how, tmp_path):
    model = fill(tiny(depth=1, dtype="mixed_bfloat16"))
    keras_cbvit.enable_lora(model, 2)
    weights = values(fill_lora(model))
    layer = "block_0/mlp/fc1"
    expected = weights[f"{layer}/kernel"] + (
        weights[f"{layer}/lora_kernel_a"] @ weights[f"{layer}/lora_kernel_b"]
    )
    if how == "merged":
        keras_cbvit.merge_lora(model)
    elif how == "saved":
        model.save(tmp_path / "model.keras")
        model = keras_cbvit.load_model(tmp_path / "model.keras")
    else:
        model.save_weights(tmp_path / "model.weights.h5")
        model = tiny(depth=1)
        model.load_weights(tmp_path / "model.weights.h5")
    found = model.weights_by_name()[f"{layer}/kernel"].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.any_backend
def test_a_merged_model_is_weights_and_is_trained_on(tmp_path):
    model = fill(tiny())
    keras_cbvit.enable_lora(model, 2)
    fill_lora(model)
    keras_cbvit.merge_lora(model)
    assert len(trained(model)) == len(model.weights)
    other = keras_cbvit.ViTCB(weights=model)
    np.testing.assert_array_equal(predict(other), predict(model))
    before = values(model)
    train(model)
    changed = {n for n, v in values(model).items() if (v != before[n]).any()}
    assert {"block_0/mlp/fc1/kernel", "head/kernel"} <= changed
    assert keras_cbvit.enable_lora(model, 3, blocks=[1]) == count(model)
    assert trained(model) == adapters((1,)) | HEAD


def other_model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="other")


def with_lora(**arguments):
    model = tiny()
    keras_cbvit.enable_lora(model, **{"rank": 2, **arguments})
    return model


def with_lora_of_the_head():
    model = with_lora()
    model.head.enable_lora(2)
    return model


def in_float8():
    model = tiny()
    model.quantize("float8")
    return model


REFUSED = {
    "rank=0 must be a whole number of at least 1": (tiny, {"rank": 0}),
    "rank=2.5 must be a whole number": (tiny, {"rank": 2.5}),
    "alpha=0 must be at least 0.001": (tiny, {"alpha": 0}),
    "targets=('qkv', 'fc3') must be names of dense layers of the blocks: qkv, "
    "projection, fc1, fc2.": (tiny, {"targets": ("qkv", "fc3")}),
    "targets='qkv' must be names": (tiny, {"targets": "qkv"}),
    "targets=() must be names": (tiny, {"targets": ()}),
    "blocks=[1, 2] must be ascending indices of the 2 blocks, 0 to 1.": (
        tiny,
        {"blocks": [1, 2]},
    ),
    "blocks=[-1] must be": (tiny, {"blocks": [-1]}),
    "blocks=[] must be": (tiny, {"blocks": []}),
    "has no Λ": (tiny, {"train_scale": True}),
    "other has no encoder blocks": (other_model, {}),
    "model='vit' must be a keras.Model": (lambda: "vit", {}),
    "has LoRA with rank=3, alpha=3, targets=('fc1', 'fc2', 'projection', 'qkv') and "
    "blocks=(0, 1); call merge_lora": (lambda: with_lora(rank=3), {}),
    "alpha=4": (lambda: with_lora(alpha=4), {}),
    "blocks=(0,); call": (lambda: with_lora(blocks=[0]), {}),
    "LoRA that was not added by keras_cbvit.enable_lora, for instance in": (
        with_lora_of_the_head,
        {},
    ),
    "is quantized to float8, for which Keras does not support LoRA": (in_float8, {}),
}


@pytest.mark.any_backend
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused_and_changes_nothing(message):
    build, arguments = REFUSED[message]
    model = build()
    is_model = isinstance(model, keras.Model)
    before = (trained(model), values(model)) if is_model else None
    with pytest.raises(ValueError) as error:
        keras_cbvit.enable_lora(model, **{"rank": 2, **arguments})
    assert message in str(error.value)
    if is_model:
        assert trained(model) == before[0]
        assert_same_values(values(model), before[1])


@pytest.mark.any_backend
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_what_cannot_be_merged_stays():
    with pytest.raises(ValueError, match="has no LoRA to merge"):
        keras_cbvit.merge_lora(tiny(name="plain"))
    model = fill(tiny())
    model.quantize("int8")
    keras_cbvit.enable_lora(model, 2)
    before = predict(fill_lora(model))
    with pytest.raises(ValueError, match="qkv is quantized to int8, so LoRA"):
        keras_cbvit.merge_lora(model)
    np.testing.assert_array_equal(predict(model), before)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "copy",
    [
        lambda model: keras_cbvit.feature_pyramid(model, [0, 1, 2, 3]),
        keras_cbvit.fold_context_broadcast,
    ],
)
def test_no_copy_is_without_lora(copy):
    model = tiny(depth=4, broadcast="cbs")
    keras_cbvit.enable_lora(model, 2)
    with pytest.raises(ValueError, match="has LoRA; call merge_lora"):
        copy(model)


@pytest.mark.any_backend
def test_lora_of_ones_own_is_merged():
    model = fill(tiny())
    model.head.enable_lora(2)
    expected = predict(fill_lora(model))
    keras_cbvit.merge_lora(model)
    np.testing.assert_allclose(predict(model), expected, atol=1e-6)


@pytest.mark.slow
def test_models_of_the_same_layers_are_traced_again():
    inner = fill(tiny(depth=1))
    features = inner.feature_model([0])
    model = keras.Sequential([inner])
    sharing = (inner, features, model)

    def agree():
        for each in sharing:
            found = each.predict(images(inner), verbose=0)
            np.testing.assert_allclose(found, predict(each, images(inner)), atol=1e-4)

    agree()
    keras_cbvit.enable_lora(model, 2)
    fill_lora(model)
    agree()
    keras_cbvit.merge_lora(model)
    fill(model, seed=5)
    agree()


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="of torch")
def test_the_parameters_of_torch_are_those_of_the_model():
    model = tiny()
    number = len([*model.parameters()])
    keras_cbvit.enable_lora(model, 2)
    assert len([*model.parameters()]) == number + len(adapters())
    keras_cbvit.merge_lora(model)
    assert len([*model.parameters()]) == number
