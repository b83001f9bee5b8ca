"""Time of each operation, from the profiler of a backend."""

import collections
import re
import tempfile
from pathlib import Path


def operation_seconds(backend, work):
    """Profiles a function.

    Args:
        backend: `"tensorflow"`, `"jax"` or `"torch"`.
        work: function without arguments.

    Returns:
        A dict from the backend's names of operations to seconds, summed over calls and
        threads, excluding nested operations.
    """
    if backend == "torch":
        import torch

        with torch.profiler.profile() as profile:
            work()
        times = collections.Counter()
        for event in profile.key_averages():
            # In microseconds, of the GPU if there is one.
            on_gpu = torch.cuda.is_available()
            kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
            times[event.key] += getattr(event, kind) / 1e6
        return dict(+times)
    with tempfile.TemporaryDirectory() as folder:
        if backend == "jax":
            import jax

            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # without Python calls
            with jax.profiler.trace(folder, profiler_options=options):
                work()
        else:
            import tensorflow as tf

            options = tf.profiler.experimental.ProfilerOptions(python_tracer_level=0)
            with tf.profiler.experimental.Profile(folder, options):
                work()
        (file,) = Path(folder).rglob("*.xplane.pb")
        return _of_trace(file)


def _of_trace(file):
    """Reads a trace in XLA's format, which TensorFlow and JAX write and JAX reads."""
    from jax.profiler import ProfileData

    times = collections.Counter()
    for plane in ProfileData.from_file(str(file)).planes:
        for line in plane.lines:  # a thread
            times.update(own_times(line.events))
    return dict(+times)


def own_times(events):
    """Returns the time of each operation of a thread, excluding nested operations."""
    times = collections.Counter()
    around = []  # (end, operation) of open operations, from outermost to innermost
    for event in sorted(events, key=lambda e: (e.start_ns, -e.duration_ns)):
        operation = _operation(event)
        if operation is None:
            continue
        end = event.start_ns + event.duration_ns
        while around and around[-1][0] <= event.start_ns:
            around.pop()
        times[operation] += event.duration_ns / 1e9
        if around:
            times[around[-1][1]] -= event.duration_ns / 1e9
        around.append((end, operation))
    return times


def _operation(event):
    """Returns the name of an operation, or `None` for other events."""
    if any(name == "hlo_op" for name, _ in event.stats):  # of XLA
        return re.sub(r"[.\d]+$", "", event.name)
    # TensorFlow's node:Operation, not the runtime's Class::Method.
    found = re.search(r"(?<!:):(_?[A-Z]\w+)$", event.name)
    return found and found[1]
