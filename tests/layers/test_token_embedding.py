from pathlib import Path

import keras
import numpy as np
import pytest

from keras_cbvit.layers import TokenEmbedding
from keras_cbvit.layers.token_embedding import resample_position_embedding
from tests.compare import assert_close, assert_equal, dtype_of
from tests.round_trip import round_trip

DATA = Path(__file__).parents[1] / "data"
# Patches of 2 pixels, two in a row.
PAIR = np.zeros((2, 2, 4, 3), "float32")


def test_the_class_token_comes_first_and_positions_are_added_to_all():
    layer = TokenEmbedding(2, (1, 2))
    layer.build((None, 2, 3), PAIR.shape)
    layer.class_token.assign([[[1, 2, 3]]])
    layer.position_embedding.assign([[[10, 10, 10], [20, 20, 20], [30, 30, 30]]])
    x = np.array([[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]], "float32")
    expected = [
        [[11, 12, 13], [20, 21, 22], [33, 34, 35]],
        [[11, 12, 13], [26, 27, 28], [39, 40, 41]],
    ]
    assert_equal(layer(x, PAIR), expected)


@pytest.mark.parametrize("prefix_position_embedding", [True, False])
def test_register_tokens_are_between_the_class_token_and_the_patches(
    prefix_position_embedding,
):
    layer = TokenEmbedding(2, (1, 2), 2, prefix_position_embedding)
    layer.build((None, 2, 1), PAIR.shape)
    assert layer.num_prefix_tokens == 3
    layer.class_token.assign([[[1]]])
    layer.register_tokens.assign([[[2], [3]]])
    positions, expected = [40, 50], [1, 2, 3, 44, 55]
    if prefix_position_embedding:
        positions, expected = [10, 20, 30, 40, 50], [11, 22, 33, 44, 55]
    layer.position_embedding.assign(np.array(positions, "float32").reshape(1, -1, 1))
    x = np.array([[[4], [5]], [[4], [5]]], "float32")
    assert_equal(layer(x, PAIR)[:, :, 0], [expected, expected])


def test_the_batch_size_may_be_unknown():
    tokens, images = keras.Input((4, 3)), keras.Input((4, 4, 3))
    layer = TokenEmbedding(2, (2, 2), 1)
    model = keras.Model([tokens, images], layer(tokens, images))
    assert model.output_shape == (None, 6, 3)
    x = np.zeros((7, 4, 3), "float32"), np.zeros((7, 4, 4, 3), "float32")
    assert model.predict(x, verbose=0).shape == (7, 6, 3)


def test_all_start_normal():
    layer = TokenEmbedding(2, (4, 5), 16)
    layer.build((None, 20, 500), (None, 8, 10, 3))
    assert [w.path.rpartition("/")[2] for w in layer.weights] == [
        "class_token",
        "register_tokens",
        "position_embedding",
    ]
    for weight in layer.weights:
        assert weight.numpy().std() == pytest.approx(0.02, rel=0.1)


def test_weights_stay_float32_under_mixed_precision():
    layer = TokenEmbedding(2, (1, 2), 2, dtype="mixed_float16")
    y = layer(np.zeros((2, 2, 3), "float32"), PAIR)
    assert dtype_of(y) == "float16"
    assert {weight.dtype for weight in layer.weights} == {"float32"}


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "as a policy"])
def test_every_argument_comes_back_from_the_configuration(dtype):
    if dtype == "as a policy":
        dtype = keras.dtype_policies.get("mixed_bfloat16")
    copy = round_trip(
        TokenEmbedding,
        patch_size=2,
        grid=(3, 4),
        num_register_tokens=4,
        prefix_position_embedding=False,
        class_token=False,
        distillation_token=True,
        name="tokens",
        dtype=dtype,
    )
    assert copy.dtype_policy.name == "mixed_bfloat16"


# Another grid.

COMBINATIONS = [(0, True), (3, True), (3, False), (0, False)]


@pytest.fixture(params=COMBINATIONS)
def weights(request):
    """Random weights for a grid of 3x4 patches, and the arguments they are of."""
    rng = np.random.default_rng(0)
    registers, positioned = request.param
    prefix = [rng.normal(size=(1, number, 5)) for number in (1, registers) if number]
    number = positioned * (1 + registers)
    position = rng.normal(size=(1, number + 3 * 4, 5))
    return prefix, position, request.param


@pytest.fixture
def model(weights):
    """The layer, of a grid of 3x4 patches of 2 pixels, for images of any size."""
    prefix, position, arguments = weights
    tokens, images = keras.Input((None, 5)), keras.Input((None, None, 3))
    layer = TokenEmbedding(2, (3, 4), *arguments)
    model = keras.Model([tokens, images], layer(tokens, images))
    layer.set_weights([*prefix, position])
    return model


def inputs(rows, columns):
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(2, rows * columns, 5)).astype("float32")
    return tokens, np.zeros((2, 2 * rows, 2 * columns, 3), "float32")


def embedded(tokens, prefix, position):
    """What the layer gives, by NumPy, for a position embedding of the right grid."""
    prefix = np.repeat(np.concatenate(prefix, axis=1), len(tokens), axis=0)
    without = position.shape[1] == tokens.shape[1]
    if without:
        position = np.pad(position, [(0, 0), (prefix.shape[1], 0), (0, 0)])
    return np.concatenate([prefix, tokens], axis=1) + position


def test_on_its_own_grid_it_adds_what_was_learned(model, weights):
    prefix, position, _ = weights
    tokens, images = inputs(3, 4)
    expected = embedded(tokens, prefix, position)
    assert_close(model([tokens, images]), expected, atol=1e-6)


# More, fewer, more and fewer, as many patches as in the grid but not its grid.
@pytest.mark.parametrize("grid", [(6, 5), (2, 3), (7, 2), (4, 3), (1, 1)])
@pytest.mark.any_backend
def test_on_another_grid_it_is_what_weights_loaded_for_it_are(model, weights, grid):
    tokens, images = inputs(*grid)
    prefix, position, (registers, positioned) = weights
    number = positioned * (1 + registers)
    position = resample_position_embedding(position, (3, 4), grid, number)
    y = model.predict([tokens, images], verbose=0)
    assert_close(y, embedded(tokens, prefix, position), atol=1e-5)


@pytest.mark.parametrize("images_shape", [(None, 6, 8, 3), (None, None, None, 3)])
def test_weights_have_the_same_names_for_images_of_any_size(images_shape):
    layer = TokenEmbedding(2, (3, 4), name="x")
    layer.build((None, None, 3), images_shape)
    assert [(w.path, w.shape) for w in layer.weights] == [
        ("x/class_token", (1, 1, 3)),
        ("x/position_embedding", (1, 13, 3)),
    ]


def test_a_resampled_output_is_of_the_compute_dtype():
    layer = TokenEmbedding(2, (3, 4), dtype="mixed_bfloat16")
    assert dtype_of(layer(*inputs(2, 2))) == "bfloat16"
    assert {weight.dtype for weight in layer.weights} == {"float32"}


def test_tokens_that_are_not_those_of_the_images_are_refused():
    layer = TokenEmbedding(2, (3, 4), name="tokens")
    tokens, images = inputs(3, 4)
    with pytest.raises(ValueError, match="tokens got 11 patch tokens, but"):
        layer(tokens[:, 1:], images)
    with pytest.raises(ValueError, match="patch_size=2 does not divide .* 5x8"):
        layer(tokens, images[:, 1:])
    with pytest.raises(ValueError, match=r"grid=\(3,\) must be \(rows, columns\)"):
        TokenEmbedding(2, (3,))


# Resampling once, when weights are loaded.


@pytest.fixture(scope="module")
def embeddings():
    """timm's, on a grid of 4x6 patches and resampled from it to others."""
    with np.load(DATA / "position_embedding.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("grid", [(7, 5), (8, 12), (2, 3)])
def test_resampling_is_timms(grid, embeddings):
    source = embeddings["grid_4x6"]
    found = resample_position_embedding(source, (4, 6), grid)
    assert found.dtype == "float32"
    expected = embeddings[f"grid_{grid[0]}x{grid[1]}"]
    assert found.shape == expected.shape == (1, 1 + grid[0] * grid[1], 48)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [(7, 5), (8, 12), (2, 3)])
def test_any_number_of_prefix_tokens_keep_their_own(grid, embeddings):
    source, expected = embeddings["grid_4x6"], embeddings[f"grid_{grid[0]}x{grid[1]}"]
    for prefix in (0, 5):
        own = np.full((1, prefix, 48), 9.0)
        positions = np.concatenate([own, source[:, 1:]], axis=1)
        found = resample_position_embedding(positions, (4, 6), grid, prefix)
        np.testing.assert_array_equal(found[:, :prefix], own)
        np.testing.assert_allclose(
            found[:, prefix:], expected[:, 1:], rtol=0, atol=1e-5
        )


def test_the_same_grid_stays_as_it_is(embeddings):
    source = embeddings["grid_4x6"].astype("float32")
    found = resample_position_embedding(source, (4, 6), (4, 6))
    np.testing.assert_allclose(found, source, rtol=0, atol=1e-6)


def test_the_class_tokens_embedding_is_kept(embeddings):
    source = embeddings["grid_4x6"].astype("float32")
    found = resample_position_embedding(source, (4, 6), (9, 2))
    np.testing.assert_array_equal(found[:, 0], source[:, 0])


def test_a_constant_stays_constant():
    found = resample_position_embedding(np.full((1, 7, 2), 3.0), (2, 3), (5, 1))
    np.testing.assert_allclose(found, np.full((1, 6, 2), 3.0), atol=1e-6)
