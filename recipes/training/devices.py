"""The devices a model is trained on."""

import contextlib

import keras


def distribute(devices, global_batch_size):
    """Prepares the devices; build and compile the model in the context it gives.

    Args:
        devices: how many; `None` for all GPUs, or one CPU without any. TensorFlow
            takes that many GPUs, or, where there is none, logical CPU devices, and
            mirrors the model on them.
        global_batch_size: images of a step over all devices.

    Returns:
        A context manager.

    Raises:
        ValueError: if there are not so many devices, or they do not divide the batch.
    """
    if devices is not None and devices < 1:
        raise ValueError(f"devices={devices} must be at least 1.")
    if keras.backend.backend() != "tensorflow":
        if devices not in (None, 1):
            raise ValueError(
                f"devices={devices}: training on several devices needs "
                f"KERAS_BACKEND=tensorflow, the backend is {keras.backend.backend()}."
            )
        return contextlib.nullcontext()
    import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    devices = devices or max(gpus, 1)
    if gpus and devices > gpus:
        raise ValueError(f"devices={devices}: this machine has {gpus} GPUs.")
    if global_batch_size % devices:
        raise ValueError(
            f"global_batch_size={global_batch_size} cannot be divided evenly among "
            f"{devices} devices."
        )
    if devices == 1:
        return contextlib.nullcontext()
    if not gpus:
        _make_logical_cpus(tf, devices)
    kind = "GPU" if gpus else "CPU"
    strategy = tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(devices)])
    return strategy.scope()


def _make_logical_cpus(tf, number):
    (cpu,) = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * number
        )
    except RuntimeError as error:
        existing = len(tf.config.list_logical_devices("CPU"))
        if existing < number:
            raise ValueError(
                f"devices={number}: TensorFlow is already running with {existing} "
                "CPU devices in this process; start a new one."
            ) from error
