import keras
import pytest

import keras_cbvit
from tests.tiny import tiny


def trained(model):
    return {weight.path for weight in model.trainable_weights}


def factor_of(factors, beginning):
    """The one factor of all weights whose paths begin alike."""
    (found,) = {value for path, value in factors.items() if path.startswith(beginning)}
    return found


def test_factors_by_layer():
    # BEiT's and MAE's: 0.75 ** (depth + 1 - layer), the embedding being layer 0.
    model = tiny(depth=3, num_register_tokens=2)
    factors = keras_cbvit.layer_decay(model, 0.75)
    assert set(factors) == trained(model)
    assert {
        beginning: factor_of(factors, beginning)
        for beginning in ("patch_embedding", "token_embedding", "norm/", "head")
    } == {
        "patch_embedding": 0.75**4,
        "token_embedding": 0.75**4,
        "norm/": 1.0,
        "head": 1.0,
    }
    blocks = [factor_of(factors, f"block_{i}/") for i in range(3)]
    assert blocks == [0.75**3, 0.75**2, 0.75]


def test_factors_of_a_segmentation_model_and_its_auxiliary_head():
    pyramid = keras_cbvit.feature_pyramid(tiny(depth=4), (0, 1, 2, 3))
    model = keras_cbvit.SegmentationModel(pyramid, classes=3, channels=8)
    factors = keras_cbvit.layer_decay(model.with_auxiliary_head(), 0.5)
    assert factor_of(factors, "patch_embedding") == 0.5**5
    assert [factor_of(factors, f"block_{i}/") for i in range(4)] == [
        0.5**4,
        0.5**3,
        0.5**2,
        0.5,
    ]
    assert factor_of(factors, "uper_head") == 1
    assert factor_of(factors, "auxiliary_head") == 1


def test_two_heads_and_a_norm_before_the_blocks():
    model = tiny(
        distillation_token=True, pooling="distilled", pre_norm=True, qkv_bias=False
    )
    factors = keras_cbvit.layer_decay(model, 0.5)
    assert factor_of(factors, "pre_norm") == 0.125
    assert factor_of(factors, "distillation_head") == factor_of(factors, "norm/") == 1
    keras_cbvit.enable_lora(model, 1)
    heads = {"head", "distillation_head"}
    full = {path for path in trained(model) if "lora" not in path}
    assert full == {f"{head}/{name}" for head in heads for name in ("kernel", "bias")}


def with_own_head(backbone):
    images = keras.Input((8, 12, 3))
    return keras.Model(images, keras.layers.Dense(5, name="own")(backbone(images)))


def test_a_backbone_within_another_model():
    model = with_own_head(tiny(classes=None, include_top=False))
    factors = keras_cbvit.layer_decay(model, 0.5)
    assert factor_of(factors, "block_0/") == 0.25
    assert factor_of(factors, "own") == 1
    keras_cbvit.freeze_backbone(model)
    assert trained(model) == {"own/kernel", "own/bias"}


def test_a_frozen_backbone_stays_so_in_a_file(tmp_path):
    model = tiny()
    keras_cbvit.freeze_backbone(model)
    assert trained(model) == {"head/kernel", "head/bias"}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert trained(loaded) == {"head/kernel", "head/bias"}
    keras_cbvit.unfreeze(loaded)
    assert len(trained(loaded)) == len(loaded.weights)


def test_what_cannot_be_fine_tuned_is_refused():
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="other")
    for function in (
        lambda: keras_cbvit.layer_decay(other, 0.5),
        lambda: keras_cbvit.freeze_backbone(other),
    ):
        with pytest.raises(ValueError, match="other has no encoder blocks"):
            function()
    model = tiny()
    with pytest.raises(ValueError, match="decay=1.5 must be between"):
        keras_cbvit.layer_decay(model, 1.5)


def thawed_part(model):
    model.get_layer("block_0").mlp.trainable = True


def frozen_weight(model):
    model.head.kernel.trainable = False


@pytest.mark.parametrize("change", [thawed_part, frozen_weight])
def test_what_was_frozen_in_part_is_so_as_a_whole(change):
    # On TensorFlow, Keras does nothing where a layer is frozen, or not, already.
    model = tiny()
    keras_cbvit.freeze_backbone(model)
    change(model)
    keras_cbvit.freeze_backbone(model)
    assert trained(model) <= {"head/kernel", "head/bias"}
    change(model)
    keras_cbvit.unfreeze(model)
    assert len(trained(model)) == len(model.weights)
