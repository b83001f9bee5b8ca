"""Initializers of DeiT, which the paper uses, and of mmsegmentation."""

import keras


def dense_kernel() -> keras.initializers.Initializer:
    """Initializer of dense kernels, position embedding and class token.

    DeiT's `trunc_normal_(std=0.02)` truncates at ±2, a hundred standard deviations, so
    it is a plain normal. Keras's `TruncatedNormal` truncates at two standard deviations
    and would reduce the standard deviation to 0.0176.
    """
    return keras.initializers.RandomNormal(stddev=0.02)


def patch_kernel() -> keras.initializers.Initializer:
    """Initializer of the patch embedding: uniform in ±1/sqrt(fan_in).

    This is PyTorch's default, which DeiT uses here, and XCiT for the transposed
    convolutions of its segmentation.
    """
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


def convolution_kernel() -> keras.initializers.Initializer:
    """Initializer of convolutions before a ReLU: He normal with fan_out."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def classifier_kernel() -> keras.initializers.Initializer:
    """Initializer of the convolution that classifies pixels."""
    return keras.initializers.RandomNormal(stddev=0.01)
