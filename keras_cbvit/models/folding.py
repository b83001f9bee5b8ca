"""Converts CB_S with Λ = 1 to CB."""

import keras
import numpy as np

from keras_cbvit.arguments import refuse
from keras_cbvit.internals import layers_within
from keras_cbvit.models.lora import check_no_lora
from keras_cbvit.models.segmentation import check_vision_transformer
from keras_cbvit.models.vision_transformer import VisionTransformer

# The weights to double, by the place of CB in a block. LayerScale,
# squeeze-and-excitation and drop path come after CB and stay the same.
_DOUBLED = {
    "msa_end": ("attention/projection/kernel", "attention/projection/bias"),
    "mlp_front": ("norm2/gamma", "norm2/beta"),
    "mlp_mid": ("mlp/fc2/kernel",),  # after CB, since GELU comes before
    "mlp_end": ("mlp/fc2/kernel", "mlp/fc2/bias"),
}


def fold_context_broadcast(model: VisionTransformer) -> VisionTransformer:
    """Converts a CB_S model whose λ are all 1 to an equivalent CB model.

    CB_S with λ = 1 is CB of the doubled input, whether the context is the mean, the
    maximum or a token::

        x + mean(x) = 0.5 * (2 * x) + 0.5 * mean(2 * x)

    So the weights before CB are doubled, which is exact in floating point, or the
    weights after CB where GELU comes before it. To reach λ = 1 from a plain model,
    fine-tune CB_S while annealing Λ from 0 to 1 (`--anneal-context` in the recipes).

    Args:
        model: a `VisionTransformer` with `broadcast="cbs"`, not quantized.

    Returns:
        A copy with `broadcast="cb"`.

    Raises:
        ValueError: if it is another model, or a λ is not 1.
    """
    check_vision_transformer("model", model)
    if model.spec.broadcast != "cbs":
        refuse("broadcast", model.spec.broadcast, "has no Λ to fold; use 'cbs'.")
    check_no_lora(model)
    for layer in layers_within(model):
        if layer.quantization_mode:
            raise ValueError(f"{layer.path} is quantized; fold first.")
    spec = model.spec.replace(broadcast="cb")
    folded = type(model).from_config({**model.get_config(), "spec": spec.to_json()})
    doubled = {
        f"block_{index}/{name}"
        for index, place in model.spec.contexts()
        for name in _DOUBLED[place]
    }
    wanted = folded.weights_by_name()
    for name, weight in model.weights_by_name().items():
        value = keras.ops.convert_to_numpy(weight)
        if name not in wanted:
            _check_scale(name, value)
        else:
            wanted[name].assign(2 * value if name in doubled else value)
    return folded


def _check_scale(name, scale):
    scale = scale.astype("float32")
    if (scale != 1).any():
        farthest = scale[np.abs(scale - 1).argmax()]
        raise ValueError(
            f"{name} has a λ of {farthest:.4g}, but all must be 1; continue training "
            "with Λ annealed to 1."
        )
