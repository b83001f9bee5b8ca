import keras
import numpy as np

from keras_cbvit.layers import PatchEmbedding, TokenMap
from tests.compare import assert_equal
from tests.round_trip import round_trip


def test_tokens_are_where_their_patches_are():
    images = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype("float32")
    tokens = keras.ops.convert_to_numpy(PatchEmbedding(4, 5)(images))
    for prefix in (1, 0, 5):
        tokens_in = np.concatenate([np.full((2, prefix, 5), 9.0), tokens], axis=1)
        y = TokenMap(4, prefix)(tokens_in.astype("float32"), images)
        assert y.shape == (2, 2, 3, 5)
        for row in range(2):
            for column in range(3):
                assert_equal(y[:, row, column], tokens[:, 3 * row + column])


def test_the_size_may_be_unknown():
    tokens, images = keras.Input((None, 5)), keras.Input((None, None, 3))
    model = keras.Model([tokens, images], TokenMap(4)(tokens, images))
    assert model.output_shape == (None, None, None, 5)
    for rows, columns in ((2, 3), (3, 1)):
        x = np.zeros((1, 1 + rows * columns, 5), "float32")
        image = np.zeros((1, 4 * rows, 4 * columns, 3), "float32")
        y = model.predict([x, image], verbose=0)
        assert y.shape == (1, rows, columns, 5)


def test_every_argument_comes_back_from_the_configuration():
    round_trip(
        TokenMap, patch_size=4, num_prefix_tokens=5, name="map", dtype="mixed_bfloat16"
    )
