import keras
import numpy as np

from keras_cbvit.layers import MLP, Residual
from tests.compare import assert_close


def test_the_branch_of_the_normalized_inputs_is_added():
    layer = Residual(keras.layers.Rescaling(10.0, offset=1.0))
    x = np.array([[[1.0, 3.0], [5.0, 5.0]]])
    # LayerNorm makes the first token (-1, 1) and the second (0, 0).
    expected = np.array([[[-8.0, 14.0], [6.0, 6.0]]])
    assert_close(layer(x), expected, atol=1e-4)


def test_the_branch_comes_back_from_the_configuration():
    layer = Residual(MLP(20, name="mlp"), name="extra", dtype="mixed_bfloat16")
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert copy.get_config() == layer.get_config()
    assert copy.branch.hidden_dim == 20
    assert copy.norm.dtype_policy.name == "mixed_bfloat16"


def test_a_built_layer_comes_back():
    layer = Residual(MLP(20, name="mlp"), name="extra")
    layer.build((None, 2, 4))
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert copy(np.zeros((1, 2, 4), "float32")).shape == (1, 2, 4)
    assert copy.count_params() == layer.count_params()
