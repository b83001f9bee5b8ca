"""The grid of patches that images are cut into."""

import keras

from keras_cbvit.annotations import Shape


def check_patches(
    layer: keras.layers.Layer,
    patch_size: int,
    images_shape: Shape,
    tokens: int | None = None,
) -> None:
    """Raises a ValueError unless images are cut into patches, and into so many tokens.

    Args:
        layer: the layer, for its name.
        patch_size: side of a patch in pixels.
        images_shape: shape of the images. A side may be `None`, or symbolic while a
            model is exported for images of any size; then it is not checked.
        tokens: how many patches there are, if known.
    """
    if len(images_shape) != 4:
        raise ValueError(
            f"{layer.name} takes images of shape (batch, height, width, channels), not "
            f"{tuple(images_shape)}."
        )
    height, width = images_shape[1:3]
    for side in (height, width):
        if isinstance(side, int) and (side < 1 or side % patch_size):
            raise ValueError(
                f"patch_size={patch_size} does not divide images of {height}x{width} "
                "pixels."
            )
    if not all(isinstance(number, int) for number in (height, width, tokens)):
        return
    if tokens != (height // patch_size) * (width // patch_size):
        raise ValueError(
            f"{layer.name} was given {tokens} tokens of patches, but images of {height}"
            f"x{width} pixels have {(height // patch_size) * (width // patch_size)} of "
            f"patch_size={patch_size}."
        )
