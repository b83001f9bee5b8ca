"""How many operations a model takes: speed, as far as no clock is needed.

A change that has a backend multiply, copy or pass over the tokens once more than it
must fails here, on any machine. docs/speed.md has the times.
"""

import collections
import re

import keras
import numpy as np
import pytest

import keras_cbvit

pytestmark = pytest.mark.operations

BACKEND = keras.backend.backend()
DEPTH = 3
DENSE = 4 * DEPTH + 2  # of each block, the patch embedding and the head
NAMES = {  # of products of dense layers, of those of attention, of passes over tokens
    "tensorflow": ("MatMul", "BatchMatMulV2", ("Mul", "AddV2", "Mean")),
    "jax": ("dot_2d", "dot_4d", ("multiply", "add", "reduce")),
    "torch": (
        "aten::addmm",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        ("aten::mul", "aten::add", "aten::mean"),
    ),
}
DENSE_NAME, ATTENTION_NAME, PASSES = NAMES[BACKEND]


def operations(training, **arguments):
    """The operations of an inference, or of a loss and its gradient, by name."""
    model = keras_cbvit.ViTCB(
        input_shape=(16, 16, 3),
        patch_size=8,
        hidden_dim=24,
        depth=DEPTH,
        num_heads=3,
        classes=5,
        include_preprocessing=False,
        classifier_activation=None,
        **arguments,
    )
    images = np.zeros((2, 16, 16, 3), "float32")
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND](
        model, images, training
    )


def _tensorflow(model, images, training):
    import tensorflow as tf

    @tf.function
    def function(images):
        if not training:
            return model(images, training=False)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    graph = function.get_concrete_function(tf.TensorSpec(images.shape)).graph
    return collections.Counter(operation.type for operation in graph.get_operations())


def _jax(model, images, training):
    import jax

    state = [
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]

    def function(*arguments):
        outputs, _ = model.stateless_call(*arguments, training=training)
        return (outputs**2).sum() if training else outputs

    if training:
        function = jax.grad(function)
    text = jax.jit(function).lower(*state, images).as_text()
    counts = collections.Counter(re.findall(r"stablehlo\.(\w+)", text))
    for shape in re.findall(r"stablehlo\.dot_general.*\(tensor<([\dx]+)x", text):
        counts[f"dot_{len(shape.split('x'))}d"] += 1
    return counts


def _torch(model, images, training):
    import torch
    from torch.profiler import ProfilerActivity, profile

    images = torch.from_numpy(images)
    model(images)  # builds what is built once
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        if training:
            (model(images, training=True) ** 2).sum().backward()
        else:
            with torch.no_grad():
                model(images, training=False)
    return collections.Counter({e.key: e.count for e in recorded.key_averages()})


def test_inference_multiplies_once_for_each_dense_layer():
    counts = operations(training=False)
    # On torch the head is Keras's own Dense, whose product is an `mm`.
    head = {"aten::mm": 1} if BACKEND == "torch" else {}
    assert counts[DENSE_NAME] == DENSE - len(head)
    assert counts["aten::mm"] == head.get("aten::mm", 0)
    each = 1 if BACKEND == "torch" else 2
    assert counts[ATTENTION_NAME] == each * DEPTH


def test_a_gradient_takes_two_products_for_each():
    counts = operations(training=True)
    if BACKEND == "torch":
        # Two for each `addmm` and one for the head; the images need none.
        assert counts["aten::addmm"] == DENSE - 1
        assert counts["aten::mm"] == 2 * DENSE - 1 + 1
    else:
        assert counts[DENSE_NAME] == 3 * DENSE - 1
        assert counts[ATTENTION_NAME] == 6 * DEPTH


@pytest.mark.parametrize("training", [False, True])
def test_context_broadcasting_multiplies_no_matrices_and_passes_few_times(training):
    counts = operations(training)
    plain = operations(training, broadcast="none")
    assert counts[DENSE_NAME] == plain[DENSE_NAME]
    assert counts[ATTENTION_NAME] == plain[ATTENTION_NAME]
    added = [(counts[name] - plain[name]) / DEPTH for name in PASSES]
    # The halves, their sum, the mean (which is a sum and a product to XLA); twice as
    # many in a gradient, and the sums of gradients that meet.
    assert sum(added) <= (12 if training else 6)
    if not training and BACKEND != "jax":
        assert added == [2, 1, 1]


@pytest.mark.skipif(BACKEND == "jax", reason="XLA decides what is copied.")
def test_tokens_are_moved_no_more_than_to_heads_and_back():
    counts = operations(training=False)
    if BACKEND == "tensorflow":
        # Queries, keys twice, values, outputs; and the patches.
        assert counts["Transpose"] == 5 * DEPTH + 1
        assert counts["Einsum"] == counts["Erfc"] == 0
    else:
        plain = operations(training=False, broadcast="none")
        # The outputs of a block's heads, and the bias that `addmm` spreads, 4 times.
        assert plain["aten::copy_"] <= 5 * DEPTH + 3


def test_remat_computes_the_blocks_again_in_the_backward_pass():
    counts, again = operations(training=True), operations(training=True, remat=True)
    # JAX leaves out the last product of a branch, whose gradient does not need it.
    needed = 2 if BACKEND == "jax" else 4
    assert again[DENSE_NAME] == counts[DENSE_NAME] + needed * DEPTH
    each = 1 if BACKEND == "torch" else 2
    assert again[ATTENTION_NAME] == counts[ATTENTION_NAME] + each * DEPTH
    assert operations(training=False, remat=True) == operations(training=False)
