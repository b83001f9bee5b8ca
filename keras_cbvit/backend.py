"""Backend-specific implementations, for speed or because Keras's do not work.

All code that depends on the backend is here. Tests compare each function with its
generic implementation; `docs/speed.md` has the measurements.
"""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import ops

from keras_cbvit.annotations import DType, Tensor
from keras_cbvit.internals import has_strategy

BACKEND = keras.backend.backend()
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_without_erf = False  # see `trace_for_tensorflow`


def wide_dtype(dtype: DType) -> str:
    """Returns a dtype, or float32 if it is narrower, for sums over many tokens.

    Keras's `result_type` returns float32 for float64, except on TensorFlow.
    """
    dtype = keras.backend.standardize_dtype(dtype)
    return dtype if dtype == "float64" else keras.backend.result_type(dtype, "float32")


def wide(x: Tensor) -> Tensor:
    """Casts a tensor to its `wide_dtype`."""
    return ops.cast(x, wide_dtype(x.dtype))


def mean(inputs: Tensor, axis: int, keepdims: bool = False) -> Tensor:
    """Returns the mean in the inputs' dtype, accumulated in at least float32.

    Keras's mean of float64 is float32, except on TensorFlow.
    """
    x = wide(inputs)
    if BACKEND in ("jax", "torch"):
        x = x.mean(axis=axis, keepdims=keepdims)
    else:
        x = ops.mean(x, axis=axis, keepdims=keepdims)
    return ops.cast(x, inputs.dtype)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshapes a tensor.

    On torch, Keras's operations first look for symbolic tensors among their arguments,
    which takes longer than most operations on one image.
    """
    return x.reshape(shape) if BACKEND == "torch" else ops.reshape(x, shape)


def dense(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """`inputs @ kernel + bias` for inputs of shape `(batch, ..., channels)`.

    Uses a product of two matrices: for rank 3, XLA transposes copies of the operands in
    the backward pass, which takes longer on a CPU than the product. torch adds the bias
    within the product instead of in a second pass.
    """
    if BACKEND == "torch":
        import torch

        return torch.nn.functional.linear(inputs, _value(kernel).t(), _value(bias))
    between, channels = ops.shape(inputs)[1:-1], inputs.shape[-1]
    x = ops.matmul(ops.reshape(inputs, (-1, channels)), kernel)
    if bias is not None:
        x = ops.add(x, bias)
    return ops.reshape(x, (-1, *between, kernel.shape[-1])) if between else x


def _value(weight):
    """Returns the tensor of a weight, in the dtype of the layer that is computed."""
    return weight.value if isinstance(weight, keras.Variable) else weight


def layer_norm(inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    """Layer norm over the last axis, computed in at least float32.

    torch casts within its kernel; Keras casts before and after it.
    """
    if BACKEND == "torch":
        import torch

        weight, bias = (_value(x).to(inputs.dtype) for x in (gamma, beta))
        channels = inputs.shape[-1:]
        return torch.nn.functional.layer_norm(inputs, channels, weight, bias, epsilon)
    x = ops.layer_normalization(inputs, gamma, beta, -1, epsilon)
    return ops.cast(x, inputs.dtype)


def gelu(inputs: Tensor) -> Tensor:
    """The exact GELU, `x Φ(x)`.

    Keras on TensorFlow and JAX uses erfc, which is slower than erf on a CPU and differs
    in the last digits of float32; torch has a fused kernel.
    """
    if BACKEND == "torch":
        return ops.gelu(inputs, approximate=False)
    x = wide(inputs)
    if _without_erf:
        return ops.cast(ops.gelu(x, approximate=False), inputs.dtype)
    return ops.cast(0.5 * x * (1 + ops.erf(x * 0.5**0.5)), inputs.dtype)


@contextlib.contextmanager
def trace_for_tensorflow() -> Iterator[None]:
    """A context for tracing a model on JAX that TensorFlow will run.

    TensorFlow 2.21 cannot read JAX 0.10's erf, but can read erfc.
    """
    global _without_erf
    before, _without_erf = _without_erf, BACKEND == "jax"
    try:
        yield
    finally:
        _without_erf = before


def gelu_tanh(inputs: Tensor) -> Tensor:
    """GELU with Φ approximated by tanh, as in SigLIP."""
    if BACKEND == "torch":
        return ops.gelu(inputs, approximate=True)
    return ops.cast(ops.gelu(wide(inputs), approximate=True), inputs.dtype)


def quick_gelu(inputs: Tensor) -> Tensor:
    """GELU with Φ approximated by a sigmoid, `x σ(1.702 x)`, as in CLIP."""
    return inputs * ops.sigmoid(1.702 * inputs)


def swiglu(inputs: Tensor) -> Tensor:
    """SwiGLU, `silu(a) * b` of the two halves of the channels, as in DINOv2-g."""
    gate, value = ops.split(inputs, 2, axis=-1)
    return ops.silu(gate) * value


def split_heads(x: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Splits queries, keys and values, concatenated along the last axis, by head.

    Returns three tensors of shape `(batch, tokens, heads, channels)`.
    """
    tokens, channels = ops.shape(x)[1], x.shape[-1] // 3
    shape = (-1, tokens, num_heads, channels // num_heads)
    parts = x.chunk(3, -1) if BACKEND == "torch" else ops.split(x, 3, axis=-1)
    query, key, value = (reshape(part, shape) for part in parts)
    return query, key, value


def attention(
    query: Tensor, key: Tensor, value: Tensor, training: bool | None = False
) -> Tensor:
    """Scaled dot-product attention of shape `(batch, tokens, heads, channels)`.

    Keras's implementation copies the operands on torch and is slow on CPUs; JAX's does
    not support float16 on CPUs.
    """
    if BACKEND == "torch":
        import torch

        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        x = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return x.transpose(1, 2)
    if BACKEND in ("tensorflow", "jax") and is_on_cpu():
        if training:
            return attention_with_scores(query, key, value)[0]
        return _attention_without_scores(query, key, value)
    return ops.dot_product_attention(query, key, value)


def attention_with_scores(
    query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns attention and its maps; the layout by head is faster on a CPU."""
    query, key, value = (_by_head(x) for x in (query, key, value))
    scores = ops.softmax(wide(_products(query, key)), axis=-1)
    scores = ops.cast(scores, value.dtype)
    return _by_head(scores @ value), scores


def _attention_without_scores(query, key, value):
    """Divides by the softmax's sum last, since a head has fewer channels than keys.

    Only for inference; its gradient is slower.
    """
    query, key, value = (_by_head(x) for x in (query, key, value))
    products = wide(_products(query, key))
    shares = ops.exp(products - ops.max(products, axis=-1, keepdims=True))
    total = ops.sum(shares, axis=-1, keepdims=True)
    x = wide(ops.cast(shares, value.dtype) @ value) / total
    return _by_head(ops.cast(x, value.dtype))


def resize(x: Tensor, size: int) -> Tensor:
    """Resizes maps of shape `(batch, height, width, channels)` bilinearly to `size`.

    Without aligned corners or antialiasing, on every backend. Keras does not support
    sizes that TensorFlow only knows at run time.
    """
    is_double = keras.backend.standardize_dtype(x.dtype) == "float64"
    if BACKEND == "tensorflow" and is_double:
        return _resize_float64(x, size)  # tf.image.resize returns float32
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return ops.cast(tf.image.resize(x, size, "bilinear"), x.dtype)
    return ops.image.resize(
        x, size, interpolation="bilinear", data_format="channels_last"
    )


def _resize_float64(x, size):
    """Resizes float64 maps by two products with the weights of each axis."""
    rows, columns = (
        _bilinear_matrix(old, new)
        for old, new in zip(ops.shape(x)[1:3], size, strict=True)
    )
    x = ops.einsum("Hh,bhwc->bHwc", rows, x)
    return ops.einsum("Ww,bHwc->bHWc", columns, x)


def _bilinear_matrix(old, new):
    """Returns float64 weights of shape `(new, old)` that resize an axis."""
    step = ops.cast(old, "float64") / ops.cast(new, "float64")
    centers = (ops.arange(new, dtype="float64") + 0.5) * step - 0.5
    centers = ops.clip(centers, 0.0, ops.cast(old, "float64") - 1.0)
    distance = ops.abs(centers[:, None] - ops.arange(old, dtype="float64"))
    return ops.maximum(1.0 - distance, 0.0)


def _products(query, key):
    # Not `ops.matmul`, which uses float32 for float64 on torch.
    return (query * query.shape[-1] ** -0.5) @ ops.swapaxes(key, -1, -2)


def _by_head(x):
    """Swaps the axes of tokens and heads in `(batch, tokens, heads, channels)`."""
    return ops.transpose(x, (0, 2, 1, 3))


def is_on_cpu() -> bool:
    """Returns whether Keras computes on CPUs."""
    if BACKEND == "torch":  # Keras does not list torch's devices
        return ops.zeros(()).device.type == "cpu"
    devices = keras.distribution.list_devices()
    return all(device.startswith("cpu") for device in devices)


def keep_freed_memory() -> bool:
    """Makes this process keep the memory that it frees, for Keras on CPUs.

    By default, glibc returns large blocks to Linux as soon as they are freed, so that
    each step allocates them page by page again, which takes time. With this setting,
    the process keeps its peak of memory until it ends. GPUs are not affected.

    Returns:
        Whether the C library supports it: glibc does, other libraries and other
        operating systems than Linux do not.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    # Blocks below the first size come from the heap; the second is kept at its top.
    options = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: 2**31 - 1}
    if set_option is None:  # musl
        return False
    return all(set_option(name, value) for name, value in options.items())


def predictor(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a thread-safe `predict_on_batch` of a model.

    Keras's donates the weights' buffers during a call on JAX. On OpenVINO it computes
    in bfloat16 on CPUs that support it, and shares one request.
    """
    if BACKEND == "openvino":
        return _openvino_predictor(model)
    if BACKEND != "jax":
        return model.predict_on_batch
    import jax

    @jax.jit
    def call(trainable, others, inputs):
        return model.stateless_call(trainable, others, inputs, training=False)[0]

    def predict_on_batch(inputs):
        trainable = [weight.value for weight in model.trainable_variables]
        others = [weight.value for weight in model.non_trainable_variables]
        return jax.tree.map(np.asarray, call(trainable, others, inputs))

    return predict_on_batch


def _openvino_predictor(model):
    """Returns a float32 predictor with the current weights of the model."""
    import openvino as ov

    tensor = type(ops.convert_to_tensor(0.0))

    @functools.cache
    def compiled(shape):
        inputs = ov.opset15.parameter(ov.PartialShape([-1, *shape]), np.float32)
        outputs = model(tensor(inputs.output(0)), training=False)
        graph = ov.Model([outputs.output], [inputs])
        return ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def predict_on_batch(inputs):
        request = compiled(inputs.shape[1:]).create_infer_request()
        return request.infer([inputs.astype("float32")])[0]

    return predict_on_batch


def size_to_compile(number: int, most: int) -> int:
    """Returns the batch size to pad a number of inputs to, usually at most `most`.

    TensorFlow's XLA and JAX compile a model for each batch size, so they use powers of
    two.
    """
    if BACKEND not in ("tensorflow", "jax"):
        return number
    return max(number, min(most, 1 << (number - 1).bit_length()))


@contextlib.contextmanager
def inference_by_xla(model: keras.Model) -> Iterator[None]:
    """A context in which a model's `predict` uses XLA on TensorFlow on a CPU.

    XLA is 1.5 times as fast there, but Keras does not enable it. For a compiled model,
    `compile(jit_compile=...)` decides.
    """
    jit_compile = model.jit_compile
    if BACKEND == "tensorflow" and not model.compiled and is_on_cpu():
        model.jit_compile = not has_strategy(model)
    try:
        yield
    finally:
        model.jit_compile = jit_compile
