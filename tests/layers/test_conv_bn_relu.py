import numpy as np
import pytest

from keras_cbvit.layers import ConvBNReLU
from tests.compare import assert_close, dtype_of
from tests.round_trip import round_trip


def by_loops(x, kernel):
    side = len(kernel)
    padded = np.pad(x, [(0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)])
    y = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            window = padded[:, i : i + side, j : j + side]
            y[:, i, j] = np.tensordot(window, kernel, axes=3)
    return y


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_convolution_norm_and_relu(kernel_size, training):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 5, 3)).astype("float32")
    layer = ConvBNReLU(2, kernel_size)
    layer.build(x.shape)
    kernel = rng.normal(size=(kernel_size, kernel_size, 3, 2))
    gamma, beta = np.array([1.5, -0.5]), np.array([0.1, 0.2])
    mean, variance = np.array([0.3, -0.3]), np.array([2.0, 0.5])
    layer.convolution.set_weights([kernel])
    layer.norm.set_weights([gamma, beta, mean, variance])

    y = by_loops(x, kernel)
    if training:
        mean, variance = y.mean(axis=(0, 1, 2)), y.var(axis=(0, 1, 2))
    expected = gamma * (y - mean) / np.sqrt(variance + 1e-5) + beta
    assert_close(layer(x, training=training), np.maximum(expected, 0), atol=1e-5)


def test_the_kernel_starts_as_hes_by_fan_out():
    layer = ConvBNReLU(64, 3)
    layer.build((None, None, None, 32))
    kernel = layer.convolution.kernel.numpy()
    assert kernel.std() == pytest.approx(np.sqrt(2 / (64 * 9)), rel=0.02)


def test_every_argument_comes_back_from_the_configuration():
    copy = round_trip(
        ConvBNReLU, channels=2, kernel_size=3, name="conv", dtype="mixed_bfloat16"
    )
    y = copy(np.zeros((1, 4, 4, 1), "float32"))
    assert y.shape == (1, 4, 4, 2)
    assert dtype_of(y) == "bfloat16"
