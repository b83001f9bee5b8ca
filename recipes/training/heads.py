"""The head of loaded weights, and the classes of another data set."""

import numpy as np

from keras_cbvit.classes import difference, listed
from keras_cbvit.pretrained.formats.keras_files import read_spec
from keras_cbvit.pretrained.sources import locate


def fit_head(model, names, weights):
    """Gives a classifier with loaded weights the classes of a data set.

    Its head is kept if it is of these classes, by name; in another order its outputs
    are put into this one. If they are others, it is reinitialized. A head without names
    is kept, since it may be of these.

    Args:
        model: a `VisionTransformer`, as `ViTCB(weights=weights, classes=...)` builds
            it, whose `class_names` become these.
        names: of the classes, in order, as many as the model's.
        weights: a full name or the path of a file.

    Returns:
        What was done, in a sentence; `None` if the head was kept as it is.
    """
    own, model.class_names = model.class_names, names
    if own == names:
        return None
    head = model.get_layer("head")
    if own is None:
        path, _ = locate(weights)
        # A .weights.h5 file is of the very model.
        classes = len(names) if path.suffix == ".h5" else read_spec(path).classes
        if classes is None:
            return f"{weights} has no head: a new one is trained."
        if classes != len(names):
            return (
                f"The head of {weights} is for {classes} classes: a new one is trained "
                f"for {len(names)}."
            )
        return (
            f"{weights} does not know the names of its classes: its head is kept, and "
            f"they are taken to be {listed(names)}, in this order."
        )
    if set(own) == set(names):
        order = [own.index(name) for name in names]
        head.kernel.assign(np.take(head.kernel.numpy(), order, axis=1))
        head.bias.assign(np.take(head.bias.numpy(), order))
        return f"The outputs of {weights} are put into the order {listed(names)}."
    kernel = head.kernel_initializer(head.kernel.shape, dtype=head.kernel.dtype)
    head.kernel.assign(kernel)
    head.bias.assign(np.zeros(head.bias.shape))
    other = difference("the data set", names, "it", own)
    return f"The head of {weights} is reinitialized: {other}."
