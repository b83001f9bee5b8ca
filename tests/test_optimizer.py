import keras
import numpy as np
import pytest
from keras import ops

import keras_cbvit
from tests.tiny import first_on_each_backend, predict, tiny


def adamw(weight, gradients, rate, decay):
    """AdamW's steps (Loshchilov and Hutter, 2019) in float64."""
    weight, m, v = np.asarray(weight, "float64"), 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        weight = weight - rate * (step + decay * weight)
    return weight


def optimizer_of(**options):
    return keras_cbvit.AdamW(0.01, 0.05, epsilon=1e-8, **options)


# Two blocks, of which each layer below the head learns half as fast as the one above.
RATES = {
    "patch_embedding/projection/kernel": 0.01 / 8,
    "token_embedding/class_token": 0.01 / 8,
    "block_0/attention/qkv/kernel": 0.01 / 4,
    "block_1/mlp/fc2/kernel": 0.01 / 2,
    "block_1/norm2/gamma": 0.01 / 2,
    "norm/gamma": 0.01,
    "head/kernel": 0.01,
}


def test_steps_of_each_layer_are_those_of_adamw_at_its_rate():
    model = tiny()
    random = np.random.default_rng(0)
    factors = keras_cbvit.layer_decay(model, 0.5)
    optimizer = optimizer_of(learning_rate_factors=factors)
    names = [v.path for v in model.trainable_variables]
    before = {v.path: ops.convert_to_numpy(v) for v in model.trainable_variables}
    steps = [
        {v.path: random.normal(size=v.shape) for v in model.trainable_variables}
        for _ in range(3)
    ]
    for step in steps:
        gradients = [ops.convert_to_tensor(step[name], "float32") for name in names]
        optimizer.apply(gradients, model.trainable_variables)
    found = {v.path: ops.convert_to_numpy(v) for v in model.trainable_variables}
    for name, rate in RATES.items():
        decay = 0.05 if name.endswith("kernel") else 0.0
        expected = adamw(before[name], [step[name] for step in steps], rate, decay)
        np.testing.assert_allclose(found[name], expected, atol=1e-6, err_msg=name)


def test_without_factors_it_is_keras_s():
    results = []
    for kind in (keras_cbvit.AdamW, keras.optimizers.AdamW):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(2)])
        model.build((None, 3))
        optimizer = kind(0.1, 0.1, global_clipnorm=0.5)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        for value in (1.0, 2.0):
            gradients = [value * ops.ones(w.shape) for w in model.weights]
            optimizer.apply(gradients, model.trainable_variables)
        results.append(model.get_weights())
    for ours, keras_s in zip(*results, strict=True):
        np.testing.assert_allclose(ours, keras_s, rtol=1e-6)


@pytest.mark.parametrize(
    "precision", first_on_each_backend(["mixed_float16", "float32"])
)
def test_fit_with_a_factor_of_0_changes_the_head_alone(precision):
    model = tiny(dtype=precision, classifier_activation=None)
    factors = {
        path: factor if factor == 1 else 0.0
        for path, factor in keras_cbvit.layer_decay(model, 0.5).items()
    }
    optimizer = optimizer_of(learning_rate_factors=factors)
    if precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    before = {w.path: w.numpy() for w in model.weights}
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 12, 3), "uint8")
    model.fit(images, np.arange(8) % 3, batch_size=4, verbose=0)
    changed = {w.path for w in model.weights if (w.numpy() != before[w.path]).any()}
    assert changed == {"norm/gamma", "norm/beta", "head/kernel", "head/bias"}


def test_a_compiled_model_keeps_it_in_its_file(tmp_path):
    model = tiny()
    factors = keras_cbvit.layer_decay(model, 0.5)
    model.compile(keras_cbvit.AdamW(0.01, learning_rate_factors=factors), "mse")
    images = np.zeros((2, 8, 12, 3), "uint8")
    model.fit(images, np.ones((2, 3)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.learning_rate_factors == factors
    for each in (model, loaded):
        each.fit(images, np.ones((2, 3)), verbose=0)
    for ours, again in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), again.numpy(), atol=1e-7)


def test_a_factor_that_nothing_takes_is_refused():
    model = tiny()
    optimizer = keras_cbvit.AdamW(learning_rate_factors={"block_9/norm1/gamma": 0.5})
    with pytest.raises(ValueError, match="learning_rate_factors='block_9/norm1/gamma'"):
        optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"factors\['head/kernel'\]=-1 must be at lea"):
        keras_cbvit.AdamW(learning_rate_factors={"head/kernel": -1})


@pytest.mark.any_backend
def test_a_file_with_lora_merged_is_loaded_with_its_optimizer(tmp_path):
    model = tiny()
    keras_cbvit.enable_lora(model, 2)
    factors = keras_cbvit.layer_decay(model, 0.5)
    optimizer = keras_cbvit.AdamW(1e-2, learning_rate_factors=factors)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(np.zeros((4, 8, 12, 3)), np.array([0, 1, 2, 0]), verbose=0)
    model.save(tmp_path / "lora.keras")
    loaded = keras.saving.load_model(tmp_path / "lora.keras")
    np.testing.assert_allclose(predict(loaded), predict(model), atol=1e-5)
