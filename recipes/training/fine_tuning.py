"""Fine-tuning: freezing, LoRA, and annealing of Λ."""

import keras_cbvit
from keras_cbvit.analysis import scale_layers
from keras_cbvit.models.lora import TARGETS, scales_of
from keras_cbvit.pretrained.agreement import check_agreement, random_images
from keras_cbvit.pretrained.publishing import in_float32


def check(experiment):
    """Raises a ValueError if a fine-tuning option has no effect or conflicts."""
    training, weights = experiment.training, experiment.network.weights
    for name in ("freeze", "lora_rank"):
        value = getattr(training, name)
        if value is None:
            continue
        if weights is None:
            raise ValueError(
                f"{name}={value!r} would freeze random weights; set --weights."
            )
        if training.anneal_context is not None:
            raise ValueError(
                f"{name}={value!r} cannot be combined with anneal_context="
                f"{training.anneal_context}, which trains the backbone; use one of "
                "them."
            )
    for name, default in (("lora_targets", TARGETS), ("lora_blocks", None)):
        if training.lora_rank is None and getattr(training, name) != default:
            raise ValueError(
                f"{name}={getattr(training, name)!r} requires LoRA; set --lora-rank."
            )
    if training.freeze is None or training.lora_rank is not None:
        return
    for name in ("layer_decay", "head_warmup_epochs"):
        if value := getattr(training, name):
            raise ValueError(
                f"{name}={value} has no effect on a frozen backbone "
                f"(freeze={training.freeze!r}); use one of them."
            )


def prepare(model, training):
    """Freezes the backbone and enables LoRA as the training options say.

    Raises:
        ValueError: if Λ is to be annealed, but the model has none or it is not 0.
    """
    if training.freeze is not None:
        keras_cbvit.freeze_backbone(model)
    if training.lora_rank is not None:
        number = keras_cbvit.enable_lora(
            model,
            training.lora_rank,
            training.lora_targets,
            training.lora_blocks,
            train_scale=bool(scales_of(model)),
        )
        print(f"LoRA: {number:,} of {model.count_params():,} parameters are trained.")
    if training.anneal_context is not None:
        for path, layer in scale_layers(model).items():
            if layer.channel_scale.numpy().any():
                raise ValueError(
                    f"anneal_context={training.anneal_context} increases Λ from 0 to "
                    f"1, but Λ of {path} is not 0; start from weights of a plain ViT."
                )


def complete(model, training):
    """Sets an annealed Λ to its final value, 1."""
    if training.anneal_context is not None:
        for layer in scale_layers(model).values():
            layer.channel_scale.assign([1.0] * layer.channel_scale.shape[0])


def result(model, training):
    """Returns the model to save: unfrozen, with an annealed CB_S folded into CB.

    Raises:
        ValueError: if the outputs of the CB model differ from those of the CB_S model.
    """
    keras_cbvit.unfreeze(model)
    if training.anneal_context is None:
        return model
    folded = keras_cbvit.fold_context_broadcast(model)
    check_agreement(model, folded, random_images(model), "the CB model")
    return folded


def expected_result(model, training):
    """Returns the model that training will result in, except for its weights."""
    if training.anneal_context is None:
        return model
    model = in_float32(model)
    complete(model, training)
    return result(model, training)
