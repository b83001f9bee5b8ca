"""Fits the head of pretrained weights to the classes of a data set."""

import numpy as np

from keras_cbvit.classes import join_names
from keras_cbvit.pretrained import formats, imagenet
from keras_cbvit.pretrained.loading import locate_source

_KNOWN = ("input_shape", "num_heads", "epsilon", "activation", "mean", "std")


def fit_head(model, names, weights):
    """Fits the head of a pretrained classifier to the classes of a data set.

    A head with the same class names is kept, with its outputs reordered if necessary. A
    head with other class names is reinitialized. A head without class names is kept,
    since its classes may be the same.

    Args:
        model: a `VisionTransformer` built as `ViTCB(weights=weights, classes=...)`. Its
            `class_names` are set to `names`.
        names: class names of the data set, in order, as many as the model's classes.
        weights: the weights that the model was built with, but not a tag.

    Returns:
        A message that says what was done; `None` if the head is unchanged.
    """
    own, model.class_names = model.class_names, names
    if own is not None and imagenet.are_synsets(names):
        own = imagenet.in_synsets(own)
    if own == names:
        return None
    if own is None:  # the head is new, or has no class names
        # Weights may lack a configuration; the model supplies it.
        known = {field: getattr(model.spec, field) for field in _KNOWN}
        content = formats.read(locate_source(weights)[0], known)
        # A .weights.h5 file only loads into a model with the same classes.
        number = len(names) if content.spec is None else content.spec.classes
        if number is None:
            return f"{weights} has no head, so a new head is trained."
        if number != len(names):
            if content.class_names is not None:
                return _notice(weights, content.class_names, names)
            return (
                f"{weights} has {number} classes, not the {len(names)} of the data "
                "set, so its head is reinitialized."
            )
        return (
            f"{weights} has no class names, so its head is kept; assuming the classes "
            f"{join_names(names)}, in this order."
        )
    if set(own) == set(names):
        order = [own.index(name) for name in names]
        for head in model.heads:
            head.kernel.assign(np.take(head.kernel.numpy(), order, axis=1))
            head.bias.assign(np.take(head.bias.numpy(), order))
        return f"The outputs of {weights} are reordered to {join_names(names)}."
    for head in model.heads:
        kernel = head.kernel_initializer(head.kernel.shape, dtype=head.kernel.dtype)
        head.kernel.assign(kernel)
        head.bias.assign(np.zeros(head.bias.shape))
    return _notice(weights, own, names)


def _notice(weights, own, names):
    """Returns the message on a reinitialized head, with the classes that differ."""
    theirs, ours = sorted({*own} - {*names}), sorted({*names} - {*own})
    if not (theirs and ours):
        theirs, ours = own, names
    return (
        f"The classes of {weights} ({join_names(theirs)}) differ from those of the "
        f"data set ({join_names(ours)}), so its head is reinitialized."
    )
