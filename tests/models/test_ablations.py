import keras
import numpy as np
import pytest

import keras_cbvit
from keras_cbvit.models.ablations import ABLATIONS, UniformHeadCompensated, ablate
from tests.compare import assert_close

SMALL = {
    "input_shape": (16, 16, 3),
    "patch_size": 4,
    "hidden_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "classes": 5,
}


def plain(**arguments):
    return keras_cbvit.ViTCB(broadcast="none", **{**SMALL, **arguments})


def parameters(ablation, **arguments):
    model = plain(**arguments)
    return ablate(model, ablation).count_params() - model.count_params()


# By hand, for 2 blocks of 24 channels and 3 heads of 8.
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
def test_parameters_are_those_of_what_was_added(ablation, more):
    assert parameters(ablation) == more


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
    found = UniformHeadCompensated.heads(hidden_dim, num_heads)
    assert found == (num_heads - 1, width)


@pytest.mark.parametrize("ablation", ["extra_msa", "extra_mlp"])
def test_one_more_comes_between_the_last_block_and_the_norm(ablation):
    names = [layer.name for layer in ablate(plain(), ablation).layers]
    place = names.index(ablation)
    assert names[place - 1 : place + 2] == ["block_1", ablation, "norm"]


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_saved_model_comes_back_with_its_values(ablation, tmp_path):
    model = ablate(plain(), ablation)
    images = np.random.default_rng(0).integers(256, size=(2, 16, 16, 3))
    expected = model.predict(images.astype("float32"), verbose=0)
    assert expected.shape == (2, 5)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert type(copy) is type(model)
    found = copy.predict(images.astype("float32"), verbose=0)
    assert_close(found, expected, atol=1e-6)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_weight_is_trained(ablation):
    model = ablate(plain(), ablation)
    for variable in model.trainable_variables:
        if variable.path.endswith("squeeze_excitation/fc1/bias"):
            variable.assign([1.0])  # the only unit, which may else never be active
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(4, 16, 16, 3)).astype("float32")
    model.fit(images, np.arange(4), epochs=2, verbose=0)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert np.abs(keras.ops.convert_to_numpy(variable) - old).max() > 0, (
            variable.path
        )


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="ablation='se' is unknown; use one of 'uni"):
        ablate(plain(), "se")
    with pytest.raises(ValueError, match="changes the plain ViT.*not 'cb'"):
        ablate(keras_cbvit.ViTCB(**SMALL), "extra_mlp")
    with pytest.raises(ValueError, match="num_heads=1 leaves no head with softmax"):
        ablate(plain(num_heads=1), "uniform_replaced")
