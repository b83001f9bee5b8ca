from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import keras_cbvit
from recipes.options import segmentation
from recipes.options.classification import Training
from recipes.training.optimizer import build_optimizer
from recipes.training.schedule import WarmupCosine, WarmupPolynomial
from tests.recipes.training import dense

ORACLE = Path(__file__).parents[2] / "data" / "adamw.npz"
CONSTANT = Training(
    global_batch_size=1024,
    base_learning_rate=1e-2,
    minimum_learning_rate=1e-2,
    warmup_epochs=0,
)


def small_model(dtype="float32"):
    return keras_cbvit.ViTCB(
        input_shape=(8, 8, 3),
        patch_size=4,
        hidden_dim=8,
        depth=1,
        num_heads=2,
        classes=3,
        broadcast="cbs",
        dtype=dtype,
    )


def test_five_steps_are_those_of_torch():
    with np.load(ORACLE) as arrays:
        oracle = dict(arrays)
    model = keras.Sequential([keras.layers.Dense(4)])
    model.build((None, 3))
    model.set_weights([oracle["w0"], oracle["b0"]])
    optimizer = build_optimizer(CONSTANT, WarmupCosine.of(CONSTANT, 10), model, 10)
    for step in range(1, 6):
        gradients = [oracle[f"gw{step}"], oracle[f"gb{step}"]]
        gradients = [ops.convert_to_tensor(g, "float32") for g in gradients]
        optimizer.apply(gradients, model.trainable_variables)
        kernel, bias = model.get_weights()
        np.testing.assert_allclose(kernel, oracle[f"w{step}"], atol=1e-6)
        np.testing.assert_allclose(bias, oracle[f"b{step}"], atol=1e-6)


@pytest.mark.parametrize("case", dense.CASES)
def test_clipped_and_accumulated_steps_are_those_of_torch(case):
    layer = dense.build(case)
    dense.train(layer)
    dense.assert_as_torch(dense.state(layer), case, 1e-5)


@pytest.mark.parametrize(("batch", "peak"), [(1024, 1e-3), (256, 2.5e-4)])
def test_the_peak_grows_with_the_batch(batch, peak):
    training = Training(global_batch_size=batch)
    optimizer = build_optimizer(
        training, WarmupCosine.of(training, 100), small_model(), 100
    )
    assert float(optimizer.learning_rate) == pytest.approx(1e-6)
    optimizer.iterations.assign(5 * 100 - 1)
    assert float(optimizer.learning_rate) == pytest.approx(peak, rel=3e-3)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_step_without_gradients_decays_dense_kernels_alone(precision):
    model = small_model(precision)
    random = np.random.default_rng(0)
    model.set_weights([random.normal(scale=0.1, size=w.shape) for w in model.weights])
    model.compile(
        optimizer=build_optimizer(CONSTANT, WarmupCosine.of(CONSTANT, 10), model, 10),
        loss=lambda labels, outputs: 0 * ops.sum(outputs, axis=-1),
    )
    model.optimizer.build(model.trainable_variables)  # else it is traced twice
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (precision == "mixed_float16")

    before = {v.path: ops.convert_to_numpy(v) for v in model.trainable_variables}
    model.train_on_batch(np.zeros((4, 8, 8, 3), "uint8"), np.zeros((4, 3)))
    kernels = 0
    for variable in model.trainable_variables:
        rate = 1e-2 * 0.05 if variable.path.endswith("kernel") else 0
        expected = before[variable.path] * (1 - rate)
        found = ops.convert_to_numpy(variable)
        np.testing.assert_allclose(found, expected, rtol=2e-7, err_msg=variable.path)
        kernels += rate > 0
    assert kernels == 6  # patches, qkv, projection, fc1, fc2, head


def test_segmentation_decays_kernels_alone_by_its_own_share():
    training = segmentation.Training(warmup_iterations=0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.Conv2DTranspose(2, 2)(x))
    optimizer = build_optimizer(training, WarmupPolynomial.of(training), model, 1)
    assert (optimizer.beta_1, optimizer.beta_2) == (0.9, 0.999)
    assert float(optimizer.learning_rate) == pytest.approx(6e-5)
    values = [np.ones(v.shape, "float32") for v in model.trainable_variables]
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)
    optimizer.apply([ops.zeros(v.shape) for v in values], model.trainable_variables)
    for variable in model.trainable_variables:
        kept = 1 - 6e-5 * 0.01 if variable.name == "kernel" else 1
        found = ops.convert_to_numpy(variable)
        np.testing.assert_allclose(found, np.float32(kept), rtol=0, atol=1e-8)
