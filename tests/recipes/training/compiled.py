"""A small model that training's callbacks can be tried with."""

import keras

from keras_cbvit.layers import DropPath


def compiled_model(seed=0, scaled=False):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.layers.Dense(8), DropPath(0.5)])
    model.build((None, 3))
    optimizer = keras.optimizers.AdamW(0.01)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer=optimizer, loss="mse")
    optimizer.build(model.trainable_variables)
    return model
