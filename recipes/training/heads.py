"""The head of loaded weights, and the classes of another data set."""

import numpy as np

from keras_cbvit.classes import listed
from keras_cbvit.pretrained import formats, imagenet
from keras_cbvit.pretrained.loading import locate_source

_KNOWN = ("input_shape", "num_heads", "epsilon", "activation", "mean", "std")


def fit_head(model, names, weights):
    """Gives a classifier with loaded weights the classes of a data set.

    Its head is kept if it is of these classes, by name; in another order its outputs
    are put into this one. If they are others, it is reinitialized. A head without names
    is kept, since it may be of these.

    Args:
        model: a `VisionTransformer`, as `ViTCB(weights=weights, classes=...)` builds
            it, whose `class_names` become these.
        names: of the classes, in order, as many as the model's.
        weights: as the model was built with, but no tag.

    Returns:
        What was done, in a sentence; `None` if the head was kept as it is.
    """
    own, model.class_names = model.class_names, names
    if own is not None and imagenet.are_synsets(names):
        own = imagenet.in_synsets(own)
    if own == names:
        return None
    if own is None:  # the head is a new one, or does not know its classes
        # What weights without a configuration do not say, the model knows.
        known = {field: getattr(model.spec, field) for field in _KNOWN}
        content = formats.read(locate_source(weights)[0], known)
        # A .weights.h5 file is of the very model.
        number = len(names) if content.spec is None else content.spec.classes
        if number is None:
            return f"{weights} has no head, so a new one is trained."
        if number != len(names):
            if content.class_names is not None:
                return _notice(weights, content.class_names, names)
            return (
                f"{weights} has {number} classes, not the {len(names)} of the data "
                "set, so its head is reinitialized."
            )
        return (
            f"{weights} does not know the names of its classes: its head is kept, and "
            f"they are taken to be {listed(names)}, in this order."
        )
    if set(own) == set(names):
        order = [own.index(name) for name in names]
        for head in model.heads:
            head.kernel.assign(np.take(head.kernel.numpy(), order, axis=1))
            head.bias.assign(np.take(head.bias.numpy(), order))
        return f"The outputs of {weights} are put into the order {listed(names)}."
    for head in model.heads:
        kernel = head.kernel_initializer(head.kernel.shape, dtype=head.kernel.dtype)
        head.kernel.assign(kernel)
        head.bias.assign(np.zeros(head.bias.shape))
    return _notice(weights, own, names)


def _notice(weights, own, names):
    """That a head is reinitialized, with the classes that only one of the two has."""
    theirs, ours = sorted({*own} - {*names}), sorted({*names} - {*own})
    if not (theirs and ours):
        theirs, ours = own, names
    return (
        f"{weights} has other classes ({listed(theirs)}) than the data set "
        f"({listed(ours)}), so its head is reinitialized."
    )
