"""Devices and processes that a model is trained on."""

import contextlib
import functools
import os

import keras

from ..machine import cores


def distribute(devices, global_batch_size):
    """Returns a context in which a model is built and trained on several devices.

    TensorFlow mirrors the model on the devices of this machine. JAX splits each batch
    among them, and among several machines if Keras's variables
    KERAS_DISTRIBUTION_JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID are set
    (`keras.distribution.initialize`). With a launcher that JAX detects, such as SLURM
    or Open MPI, _NUM_PROCESSES is sufficient. PyTorch uses one device.

    Args:
        devices: number of devices of this machine; `None` for all GPUs, or one CPU
            without GPUs. Without GPUs, logical CPU devices are created.
        global_batch_size: number of images per step over all devices.

    Raises:
        ValueError: if the devices are too few, or do not divide the batch evenly.
    """
    if devices is not None and devices < 1:
        raise ValueError(f"devices={devices} must be at least 1.")
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _mirror(devices, global_batch_size)
    if backend == "jax":
        return _data_parallel(devices, global_batch_size)
    if devices not in (None, 1):
        raise ValueError(
            f"devices={devices}: Keras trains on several devices with "
            f"KERAS_BACKEND=tensorflow or jax; the backend is {backend}."
        )
    return contextlib.nullcontext()


def this_process():
    """Returns the index of this process and the number of training processes."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def refuse_processes(task):
    """Raises a ValueError if several processes train together.

    Args:
        task: name of a task that does not support it.
    """
    if this_process()[1] > 1:
        raise ValueError(
            f"{task} trains in one process; unset KERAS_DISTRIBUTION_NUM_PROCESSES and "
            "use the devices of one machine."
        )


def is_mirrored():
    """Returns whether TensorFlow mirrors variables on several devices here."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync > 1


def device():
    """Returns `"CPU"`, or the number and name of the GPUs: `"2 NVIDIA A100"`."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        on_gpu = keras.ops.zeros(()).device.type == "cuda"
        names = [torch.cuda.get_device_name()] if on_gpu else []
    elif backend == "jax":
        import jax

        found = jax.local_devices() if jax.default_backend() == "gpu" else []
        names = [each.device_kind for each in found]
    else:
        import tensorflow as tf

        names = [
            tf.config.experimental.get_device_details(each).get("device_name", "GPU")
            for each in tf.config.list_physical_devices("GPU")
        ]
    return f"{len(names)} {names[0]}" if names else "CPU"


def threads():
    """Returns the number of CPU threads, which affects results bitwise.

    It is PyTorch's number of threads, TensorFlow's if set, or else the number of cores
    that this process may use. `thread_variables` may override it.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.get_num_threads()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.config.threading.get_intra_op_parallelism_threads() or cores()
    return cores()


def thread_variables():
    """Returns the environment variables that set threads; `None` for an unset one."""
    names = {
        "jax": ("NPROC", "OMP_NUM_THREADS", "XLA_FLAGS"),
        "tensorflow": ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"),
        "torch": (),  # torch.get_num_threads() includes them
    }
    return {name: os.environ.get(name) for name in names[keras.backend.backend()]}


def _mirror(devices, global_batch_size):
    import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    devices = _count(devices, gpus)
    _check_batch(global_batch_size, devices)
    if devices == 1:
        return contextlib.nullcontext()
    if not gpus:
        _make_logical_cpus(tf, devices)
    kind = "GPU" if gpus else "CPU"
    return _strategy(tuple(f"{kind}:{i}" for i in range(devices))).scope()


@functools.cache
def _strategy(devices):
    """Returns the strategy of these devices, shared by all models of the process.

    A second strategy would reuse the collective keys of the first, whose shapes
    TensorFlow caches.
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices)


def _data_parallel(devices, global_batch_size):
    import jax

    # Both calls must precede the initialization of JAX's devices.
    with contextlib.suppress(RuntimeError):  # already initialized; checked below
        jax.config.update("jax_num_cpu_devices", devices or 1)
    several = int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", 1)) > 1
    if several and not jax.distributed.is_initialized():
        keras.distribution.initialize()
    on_gpu = jax.default_backend() == "gpu"
    available = jax.local_device_count()
    devices = _count(devices, available if on_gpu else 0)
    if devices > available:
        raise ValueError(
            f"devices={devices}: JAX is already running with {available} CPU devices "
            "in this process; start a new one."
        )
    _, processes = this_process()
    _check_batch(global_batch_size, devices * processes)
    if devices * processes == 1:
        return contextlib.nullcontext()
    names = keras.distribution.list_devices()
    if processes == 1:
        names = names[:devices]
    elif devices != available:
        raise ValueError(
            f"devices={devices}: with several processes, each uses all of its "
            f"{available} devices; remove --devices."
        )
    distribution = keras.distribution.DataParallel(
        devices=names, auto_shard_dataset=False
    )
    return distribution.scope()


def _count(devices, gpus):
    devices = devices or max(gpus, 1)
    if gpus and devices > gpus:
        raise ValueError(f"devices={devices}: this machine has {gpus} GPUs.")
    return devices


def _check_batch(size, devices):
    if size % devices:
        raise ValueError(
            f"global_batch_size={size} cannot be divided evenly among {devices} "
            "devices."
        )


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
