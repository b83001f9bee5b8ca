"""A classifier that is trained, the same on every backend, in a second."""

import functools

import keras
import numpy as np
from sklearn.neural_network import MLPClassifier

from recipes.data.sources import load_dataset
from recipes.options.classification import Data


@functools.cache
def digits():
    """scikit-learn's digits, 8x8 pixels."""
    return load_dataset(Data(dataset="digits", image_size=(8, 8)))


@functools.cache
def weights():
    """Of a perceptron with one hidden layer, that scikit-learn trains on the digits."""
    train = digits().train
    pixels = train.images.reshape(len(train), -1) / 255
    found = MLPClassifier(64, batch_size=256, tol=5e-3, random_state=0)
    found.fit(pixels, train.labels)
    pairs = zip(found.coefs_, found.intercepts_, strict=True)
    return [np.asarray(array, "float32") for pair in pairs for array in pair]


def classifier():
    """The perceptron as a Keras model of images 0-255; it gives probabilities."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dense(10, "softmax"),
        ]
    )
    model.set_weights(weights())
    return model
