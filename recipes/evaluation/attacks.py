"""Images changed, by little, so that a classifier errs: FGSM and PGD.

Images have values 0-255; what the classifier does to normalize them is inside it, and
the gradient goes through it. All functions take tensors of any backend:

    images: float32 of shape `(images, height, width, 3)`.
    right: of shape `(images, classes)`, not 0 where a class is right.
    epsilon: the most that a value is changed by, in pixel values: 1 is 1/255 of the
        range. The paper does not say which it took; 1 is the project's choice.
    logits: whether the classifier gives logits, see `keras_cbvit.models.logits`.
"""

import keras
from keras import ops

from .metrics import negative_log_likelihood

STEPS = 10


def input_gradient(model, images, right, logits):
    """The gradient of each image's loss with respect to the image.

    The model predicts as for inference. Nothing is left in it: its weights, and on
    torch their `grad`, stay as they are.
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
        f"There is no input gradient on the {backend} backend; use tensorflow, jax or "
        "torch."
    )


def fgsm(model, images, right, epsilon, logits):
    """One step of `epsilon` along the sign of the gradient, clipped to 0-255.

    The fast gradient sign method (Goodfellow et al., "Explaining and Harnessing
    Adversarial Examples", 2015).
    """
    return _step(model, images, right, epsilon, logits)


def pgd(model, images, right, epsilon, logits, start, steps=STEPS, step_size=None):
    """Steps along the sign of the gradient that stay within `epsilon` and 0-255.

    Projected gradient descent (Madry et al., "Towards Deep Learning Models Resistant to
    Adversarial Attacks", 2018).

    Args:
        model, images, right, epsilon, logits: see the module.
        start: tensor of the shape of `images`, from -1 to 1: where in the ball of
            radius `epsilon` to start.
        steps: how many.
        step_size: of each, in pixel values; `2.5 * epsilon / steps`, theirs, if not
            given.
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
    """A classifier's predictions of the images that it is attacked with.

    As a model, so that Keras's `predict` compiles the attack, and distributes it over
    devices. Its input is a dict of the arguments that an attack takes beside the model.
    """

    def __init__(self, model, attack, epsilon, logits):
        super().__init__()
        self.model = model
        self.attack = attack
        self.options = {"epsilon": epsilon, "logits": logits}
        self.built = True  # as the model is

    def call(self, inputs):
        inputs = {**inputs, "images": ops.cast(inputs["images"], "float32")}
        attacked = self.attack(self.model, **inputs, **self.options)
        return self.model(attacked, training=False)
