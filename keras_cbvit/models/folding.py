"""From CB_S whose Λ is 1 to CB."""

import keras
import numpy as np

from keras_cbvit.arguments import refuse
from keras_cbvit.internals import layers_within
from keras_cbvit.models.lora import check_no_lora
from keras_cbvit.models.segmentation import check_vision_transformer
from keras_cbvit.models.vision_transformer import VisionTransformer

# The weights whose double makes CB of CB_S, by the place in a block. What LayerScale,
# squeeze-and-excitation and drop path do comes after CB, and stays.
_DOUBLED = {
    "msa_end": ("attention/projection/kernel", "attention/projection/bias"),
    "mlp_front": ("norm2/gamma", "norm2/beta"),
    "mlp_mid": ("mlp/fc2/kernel",),  # after CB, as GELU is before it
    "mlp_end": ("mlp/fc2/kernel", "mlp/fc2/bias"),
}


def fold_context_broadcast(model: VisionTransformer) -> VisionTransformer:
    """The CB model that computes the same as a CB_S model whose every λ is 1.

    CB_S with λ = 1 is CB of the doubled input, whatever the context is the mean,
    the maximum or a token::

        x + mean(x) = 0.5 * (2 * x) + 0.5 * mean(2 * x)

    So the weights before CB are doubled, which is exact in floating point; where GELU
    is before it, those after. To come to λ = 1 from a plain model, fine-tune CB_S
    while Λ goes from 0 to 1 (`--anneal-context` of the recipes).

    Args:
        model: a `VisionTransformer` with `broadcast="cbs"`, not quantized.

    Returns:
        A copy with `broadcast="cb"`.

    Raises:
        ValueError: on another model, or a λ other than 1.
    """
    check_vision_transformer("model", model)
    if model.spec.broadcast != "cbs":
        refuse("broadcast", model.spec.broadcast, "has no Λ to fold; use 'cbs'.")
    check_no_lora(model)
    for layer in layers_within(model):
        if layer.quantization_mode:
            raise ValueError(f"{layer.path} is quantized; fold before you quantize.")
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
            f"{name} has a λ of {farthest:.4g}; only CB_S whose every λ is 1 is a CB "
            "model. Train on with Λ annealed to 1."
        )
