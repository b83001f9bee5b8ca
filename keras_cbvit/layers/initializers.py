"""How DeiT, and so the paper, starts its weights; for segmentation mmsegmentation."""

import keras


def dense_kernel() -> keras.initializers.Initializer:
    """Initializer of dense kernels, position embedding and class token.

    DeiT's `trunc_normal_(std=0.02)` cuts at ±2, a hundred standard deviations
    away, so it draws a plain normal. Keras's `TruncatedNormal` cuts at two
    standard deviations and would give a standard deviation of 0.0176.
    """
    return keras.initializers.RandomNormal(stddev=0.02)


def patch_kernel() -> keras.initializers.Initializer:
    """Initializer of the patch embedding: uniform in ±1/sqrt(fan_in).

    DeiT leaves this convolution to PyTorch's default, which is this; so does XCiT's
    segmentation its transposed convolutions.
    """
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


def convolution_kernel() -> keras.initializers.Initializer:
    """Initializer of convolutions before a ReLU: He's normal by fan_out."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def classifier_kernel() -> keras.initializers.Initializer:
    """Initializer of the convolution that classifies pixels."""
    return keras.initializers.RandomNormal(stddev=0.01)
