"""Adversarial attacks on classifiers: FGSM and PGD.

Images have values 0-255. The classifier includes their normalization, so the gradient
passes through it. All functions take tensors of the backend:

    images: float32 of shape `(images, height, width, 3)`.
    right: shape `(images, classes)`, nonzero for correct classes.
    epsilon: maximum change of a value, in pixel values: 1 is 1/255 of the range. The
        paper does not give its epsilon; the project chose 1.
    logits: whether the classifier returns logits, see `keras_cbvit.models.logits`.
"""

import keras
from keras import ops

from .metrics import negative_log_likelihood

STEPS = 10


def input_gradient(model, images, right, logits):
    """Returns the gradient of each image's loss with respect to the image.

    The model runs in inference mode. Its weights, and in PyTorch their `grad`, do not
    change.
    """

    def loss(images):
        predictions = model(images, training=False)
        return ops.sum(negative_log_likelihood(predictions, right, logits))

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            value = loss(images)
        return tape.gradient(value, images)
    if backend == "jax":
        import jax

        return jax.grad(loss)(images)
    if backend == "torch":
        import torch

        with torch.enable_grad():
            images = images.detach().requires_grad_()
            return torch.autograd.grad(loss(images), images)[0]
    raise ValueError(
        f"The backend {backend} does not compute input gradients; use tensorflow, jax "
        "or torch."
    )


def fgsm(model, images, right, epsilon, logits):
    """Attacks images with the fast gradient sign method.

    Takes one step of `epsilon` along the sign of the gradient, clipped to 0-255
    (Goodfellow et al., "Explaining and Harnessing Adversarial Examples", 2015).
    """
    return _step(model, images, right, epsilon, logits)


def pgd(model, images, right, epsilon, logits, start, steps=STEPS, step_size=None):
    """Attacks images by projected gradient descent.

    Takes steps along the sign of the gradient, each projected to within `epsilon` of
    the image and to 0-255 (Madry et al., "Towards Deep Learning Models Resistant to
    Adversarial Attacks", 2018).

    Args:
        model, images, right, epsilon, logits: see the module.
        start: tensor of the shape of `images` with values from -1 to 1, the starting
            point relative to `epsilon`.
        steps: number of steps.
        step_size: size of a step in pixel values; `None` for `2.5 * epsilon / steps`,
            as in the paper.
    """
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    lowest = ops.maximum(images - epsilon, 0)
    highest = ops.minimum(images + epsilon, 255)

    def step(_, attacked):
        attacked = _step(model, attacked, right, step_size, logits)
        return ops.clip(attacked, lowest, highest)

    return ops.fori_loop(0, steps, step, _valid(images + epsilon * start))


def _step(model, images, right, size, logits):
    direction = ops.sign(input_gradient(model, images, right, logits))
    return _valid(images + size * direction)


def _valid(images):
    return ops.clip(images, 0, 255)


class Attacked(keras.Model):
    """A model that attacks its images and returns a classifier's predictions of them.

    As a model, it lets Keras's `predict` compile the attack and distribute it over
    devices. Its input is a dict of the tensors that the attack takes.
    """

    def __init__(self, model, attack, epsilon, logits):
        super().__init__()
        self.model = model
        self.attack = attack
        self.options = {"epsilon": epsilon, "logits": logits}
        self.built = True  # the classifier is built

    def call(self, inputs):
        inputs = {**inputs, "images": ops.cast(inputs["images"], "float32")}
        attacked = self.attack(self.model, **inputs, **self.options)
        return self.model(attacked, training=False)
