"""Prefetching of batches by Grain, in threads or in worker processes."""

import abc
import contextlib
import errno
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..machine import allow_open_files, cores
from .memory import (
    SHARED_MEMORY,
    USE_THREADS,
    Memory,
    ProcessMemory,
    Shared,
)

AHEAD = 3  # number of batches to prepare while the device computes
MOST_THREADS = 8  # the GIL prevents more threads from preparing more
_STARTING = threading.Lock()  # held while the main module is replaced to start workers


class WorkerError(ChildProcessError):
    """A worker process died."""


class Steps(abc.ABC):
    """Batches by step, each composed of parts.

    A part depends only on its step and number, so any process can prepare it.

    Attributes:
        parts: number of parts per batch.
        arrays: dict from name to shape and dtype of the arrays of a batch, which the
            parts fill.
        images: source of the images; a NumPy array if they are already decoded.
    """

    parts: int
    arrays: Mapping[str, tuple[tuple[int, ...], str]] = types.MappingProxyType({})
    images = None

    @abc.abstractmethod
    def prepare(self, step, part, arrays):
        """Prepares a part of a batch.

        Args:
            step: number of the step.
            part: number of the part.
            arrays: uninitialized arrays of the batch; the part fills its own rows.

        Returns:
            Additional information for `join`, which must be picklable.
        """

    @abc.abstractmethod
    def join(self, step, arrays, found):
        """Assembles a batch.

        Args:
            step: number of the step.
            arrays: arrays of the batch, filled by the parts.
            found: results of `prepare` for each part.
        """

    def __getitem__(self, step):
        with Memory(self.arrays, range(step, step + 1)) as memory:
            memory.add(step)
            with memory.fill(step) as arrays:
                found = [self.prepare(step, part, arrays) for part in range(self.parts)]
            return self.join(step, memory.take(step), found)


def default_workers(steps):
    """Returns the fastest number of worker processes; 0 for threads.

    This is one process per core if images must be decoded and there are more cores
    than threads can use.
    """
    is_decoded = not isinstance(steps.images, np.ndarray)
    return cores() if is_decoded and cores() > MOST_THREADS else 0


class Feed:
    """Prefetches batches.

    Batches depend neither on the number of workers nor on the first step.

    Args:
        steps: a `Steps`.
        workers: number of processes that prepare parts; 0 for threads of this process,
            `None` for `default_workers`.

    Attributes:
        threads: number of threads that prepare parts if there are no workers.
        waited: total time spent waiting for batches, in seconds.
    """

    def __init__(self, steps, workers=None):
        self.steps = steps
        self.workers = default_workers(steps) if workers is None else workers
        self.threads = cores()
        self.waited = 0.0

    def read(
        self, first: int, last: int, place: Callable[[Any], Any] | None = None
    ) -> Generator[Any]:
        """Yields the batches of the steps from `first` to `last - 1`.

        Args:
            first: number of the first step.
            last: number of the last step plus one.
            place: function that starts copying a batch to the device and returns the
                copy; also called ahead of use.

        Raises:
            WorkerError: if a worker process is killed.
            OSError: if there is too little shared memory for the workers.
        """
        if first >= last:
            return
        with contextlib.ExitStack() as held:
            batches = self._batches(first, last, held)
            if place:
                batches = map(place, batches)
            # Shut down before the parts are closed; otherwise it would wait forever.
            joiner = held.enter_context(ThreadPoolExecutor(1))
            waiting = joiner.submit(next, batches)
            for _ in range(first, last):
                start = time.perf_counter()
                batch = waiting.result()
                self.waited += time.perf_counter() - start
                # Assemble one batch ahead, while the device computes.
                waiting = joiner.submit(next, batches, None)
                yield batch

    def _batches(self, first, last, held):
        """Returns an iterator over the batches; closing `held` stops it."""
        memory, start = Memory, self._start_threads
        if self.workers:
            allow_open_files()
            memory, start = ProcessMemory, self._start_processes
        with _explain_exits():
            memory = held.enter_context(memory(self.steps.arrays, range(first, last)))
            for step in memory.steps[: self.ahead]:
                memory.add(step)
            return self._join_batches(memory, start(memory, held))

    def _join_batches(self, memory, parts):
        """Yields the batches of all steps, allocating memory some steps ahead."""
        for step in memory.steps:
            if step + self.ahead in memory.steps:
                memory.add(step + self.ahead)
            found = [next(parts)[0] for _ in range(self.steps.parts)]
            yield self.steps.join(step, memory.take(step), found)

    @property
    def ahead(self):
        """Maximum number of batches begun before the first is used."""
        if self.workers:
            # For each worker: a buffer on both sides, one part in progress, and one in
            # transit on both sides.
            parts = (2 * self._buffer + 3) * self.workers
        else:
            parts = self._parts_of_threads
        return 1 - (-parts // self.steps.parts)

    @property
    def _buffer(self):
        """Size of a worker's buffer of parts, on either side."""
        return -(-AHEAD * self.steps.parts // (2 * self.workers))

    @property
    def _parts_of_threads(self):
        """Number of parts that threads have begun."""
        return max(AHEAD * self.steps.parts, self.threads)

    def _start_threads(self, memory, held):
        """Returns an iterator over the parts of all steps, made in threads."""
        grain = _import_grain()
        options = grain.ReadOptions(self.threads, self._parts_of_threads)
        parts = grain.MapDataset.source(_Parts(self.steps, memory))
        parts = iter(parts.to_iter_dataset(options))
        held.callback(parts.close)
        return parts

    def _start_processes(self, memory, held):
        """Returns an iterator over the parts of all steps, made in processes."""
        grain = _import_grain()
        shared = held.enter_context(Shared(_Parts(self.steps, memory)))
        workers = min(self.workers, len(shared))
        parts = grain.MapDataset.source(shared)
        parts = parts.to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(
            grain.MultiprocessingOptions(workers, self._buffer), _watch_parent
        )
        # Grain's shared memory would be newly allocated for each part.
        options = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        parts = grain.experimental.WithOptionsIterDataset(parts, options)
        parts = iter(parts)
        own = set()
        held.callback(_terminate, own)
        held.callback(parts.close)
        # Closing drains the queues; without this, workers would begin more parts.
        held.callback(memory.stop)
        with _STARTING:
            others = set(multiprocessing.active_children())
            try:
                with _main_module(Path(__file__).with_name("worker.py")):
                    # All workers have started once each has returned a part.
                    first = list(itertools.islice(parts, workers))
            finally:
                own |= set(multiprocessing.active_children()) - others
        return _explain_errors(itertools.chain(first, parts))


class _Parts:
    """The parts of all steps as one sequence, for Grain."""

    def __init__(self, steps, memory):
        self.steps = steps
        self.memory = memory

    def __len__(self):
        return len(self.memory.steps) * self.steps.parts

    def __getitem__(self, index):
        step, part = divmod(index, self.steps.parts)
        step = self.memory.steps[step]
        with self.memory.fill(step) as arrays:
            # A tuple, since Grain skips `None`.
            return (self.steps.prepare(step, part, arrays),)


def _import_grain():
    import absl.flags
    import absl.logging

    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)  # Grain warns if JAX is missing
    try:
        import grain
    finally:
        absl.logging.set_verbosity(verbosity)
    # Required by worker processes.
    absl.flags.FLAGS.mark_as_parsed()
    return grain


def _watch_parent(*_):
    """Makes a worker process exit when its parent exits for any reason."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _terminate(processes):
    """Terminates worker processes; Grain terminates only those that it has used."""
    for process in processes:
        process.terminate()
        process.join()


@contextlib.contextmanager
def _main_module(path):
    """Makes new processes run a file instead of the main module."""
    main = sys.modules["__main__"]
    names = ("__spec__", "__file__")
    before = {name: getattr(main, name) for name in names if hasattr(main, name)}
    main.__spec__, main.__file__ = None, str(path)
    try:
        yield
    finally:
        del main.__spec__, main.__file__
        vars(main).update(before)


def _explain_errors(parts):
    with _explain_exits():
        yield from parts


@contextlib.contextmanager
def _explain_exits():
    """Explains in the error message why worker processes died or did not start."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise OSError(
            "Worker processes require more open files than the system allows; raise "
            "the hard limit (ulimit -Hn), or use fewer --workers."
        ) from None
    except RuntimeError as error:
        code = str(error).partition("terminated unexpectedly with exit code ")[2]
        if not code:
            raise
        number = -int(code.partition(".")[0])
        name = signal.Signals(number).name if number > 0 else f"exit code {-number}"
        advice = (
            f"{SHARED_MEMORY} is full; make it larger (docker run --shm-size=8g), or "
            f"{USE_THREADS}"
            if name == "SIGBUS"
            else "if the machine ran out of memory, use fewer --workers, or "
            f"{USE_THREADS}"
        )
        raise WorkerError(
            f"A worker process that prepares images died ({name}): {advice}."
        ) from None
