"""The fast paths against NumPy in float64; the generic ones on every backend."""

import math
import os
import platform
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_cbvit import backend
from tests.tiny import fill, images, predict, tiny

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


@pytest.fixture(params=["own", "generic"])
def path(request, monkeypatch):
    """This backend's own path, and the one of any backend."""
    if request.param == "generic":
        monkeypatch.setattr(backend, "BACKEND", "any")


def test_dense_is_a_product_and_a_sum(path):
    inputs, kernel, bias = normal(2, 5, 7), normal(7, 3), normal(3)
    found = backend.dense(*(ops.convert_to_tensor(x) for x in (inputs, kernel, bias)))
    expected = inputs.astype("float64") @ kernel + bias
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.02)])
def test_a_layer_norm_normalizes_in_float32(path, dtype, tolerance):
    inputs, gamma, beta = 30 + normal(2, 5, 7), normal(7), normal(7)
    tensors = [ops.cast(x, dtype) for x in (inputs, gamma, beta)]
    found = backend.layer_norm(*tensors, epsilon=1e-6)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    x, gamma, beta = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in tensors)
    x = x.astype("float64")
    centered = x - x.mean(axis=-1, keepdims=True)
    expected = centered / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6) * gamma + beta
    found = ops.convert_to_numpy(ops.cast(found, "float32"))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_heads_are_split_in_the_order_of_timm(path):
    x = normal(2, 5, 3 * 2 * 4)
    found = backend.split_heads(ops.convert_to_tensor(x), num_heads=2)
    expected = x.reshape(2, 5, 3, 2, 4)
    for index, part in enumerate(found):
        np.testing.assert_array_equal(ops.convert_to_numpy(part), expected[:, :, index])


def attended(query, key, value):
    """Attention and its maps in float64."""
    query, key, value = (
        x.astype("float64").transpose(0, 2, 1, 3) for x in (query, key, value)
    )
    products = query @ key.swapaxes(-1, -2) / query.shape[-1] ** 0.5
    scores = np.exp(products - products.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    return (scores @ value).transpose(0, 2, 1, 3), scores


# The exponential of the larger scores overflows.
@pytest.mark.parametrize("scale, tolerance", [(1, 1e-5), (200, 1e-4)])
@pytest.mark.parametrize("training", [False, True])
def test_attention_is_scaled_and_by_head(path, scale, tolerance, training):
    arrays = [scale * normal(2, 5, 3, 4), normal(2, 5, 3, 4), normal(2, 5, 3, 4)]
    tensors = [ops.convert_to_tensor(x) for x in arrays]
    found = backend.attention(*tensors, training)
    expected, scores = attended(*arrays)
    both = backend.attention_with_scores(*tensors)
    for one, other in zip((found, *both), (expected, expected, scores), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), other, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 4e-3)])
def test_gelu_is_exact(path, dtype, tolerance):
    x = np.linspace(-6, 6, 97, dtype="float32")
    expected = [v * math.erfc(-v / math.sqrt(2)) / 2 for v in x.astype("float64")]
    found = backend.gelu(ops.cast(ops.convert_to_tensor(x), dtype))
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    np.testing.assert_allclose(
        ops.convert_to_numpy(ops.cast(found, "float32")),
        expected,
        rtol=tolerance,
        atol=tolerance,
    )


def test_a_predictor_predicts_what_the_model_does(path):
    model = fill(tiny())
    found = backend.predictor(model)(images(model))
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, predict(model), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "number, most, compiled",
    [(1, 32, 1), (3, 32, 4), (8, 32, 8), (20, 32, 32), (20, 24, 24), (5, 4, 5)],
)
def test_few_sizes_of_batches_are_compiled(number, most, compiled):
    expected = compiled if backend.BACKEND in ("tensorflow", "jax") else number
    assert backend.size_to_compile(number, most) == expected


PAGE_FAULTS = """
import resource
import numpy as np
from keras_cbvit.backend import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(1 << 22)  # 32 MiB, 8192 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = page_faults()
print(keep_freed_memory(), usual, page_faults(), page_faults())
"""


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has it")
def test_freed_memory_is_not_allocated_page_by_page_again():
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    command = [sys.executable, "-c", PAGE_FAULTS]
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    )
    supported, usual, _, kept = run.stdout.split()
    assert supported == "True"
    assert 10 * int(kept) < int(usual)


@pytest.mark.any_backend
def test_another_system_does_not_keep_freed_memory(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert backend.keep_freed_memory() is False
