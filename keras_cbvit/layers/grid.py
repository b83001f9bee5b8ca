"""Checks that images split into patches."""

import keras

from keras_cbvit.annotations import Shape


def check_patches(
    layer: keras.layers.Layer,
    patch_size: int,
    images_shape: Shape,
    tokens: int | None = None,
) -> None:
    """Raises a ValueError unless images split into whole patches, `tokens` of them.

    Args:
        layer: the layer, for its name.
        patch_size: side of a patch in pixels.
        images_shape: shape of the images. Sides that are `None`, or symbolic during
            export, are not checked.
        tokens: number of patch tokens, if known.
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
                f"patch_size={patch_size} does not divide the size of the images, "
                f"{height}x{width} pixels."
            )
    if not all(isinstance(number, int) for number in (height, width, tokens)):
        return
    if tokens != (height // patch_size) * (width // patch_size):
        raise ValueError(
            f"{layer.name} got {tokens} patch tokens, but images of {height}x{width} "
            f"pixels have {(height // patch_size) * (width // patch_size)} patches "
            f"with patch_size={patch_size}."
        )
