"""One training step of batch normalization on two logical CPU devices.

    python -m tests.layers.synchronized FILE

`test_synchronized_batch_normalization.py` runs it in a process of its own.
"""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras
import numpy as np

from keras_cbvit.layers import SynchronizedBatchNormalization

# The first device gets the first half, which is nothing like the other.
X = np.array([[1.0], [2.0], [11.0], [14.0]], "float32")


def build():
    inputs = keras.Input((1,))
    layer = SynchronizedBatchNormalization(name="norm")
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def on_tensorflow():
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        return build()


def on_jax():
    devices = keras.distribution.list_devices()
    assert len(devices) == 2
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=devices)
    )
    return build()


if __name__ == "__main__":
    on = {"tensorflow": on_tensorflow, "jax": on_jax}
    model = on[keras.backend.backend()]()
    history = model.fit(X, 0 * X, batch_size=4, shuffle=False, verbose=0).history
    norm = model.get_layer("norm")
    found = [history["loss"][0], norm.moving_mean, norm.moving_variance]
    np.save(sys.argv[1], [np.asarray(value).item() for value in found])
