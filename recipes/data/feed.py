"""Batches made ahead of their use, by Grain: in threads or in worker processes."""

import abc
import contextlib
import copy
import gc
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..machine import cores

AHEAD = 3  # batches that are prepared while the device computes
MOST_THREADS = 8  # more do not prepare more: Python's lock
SHARED_MEMORY = Path("/dev/shm")


class WorkerError(RuntimeError):
    """A worker process ended before its work was done."""


class Steps(abc.ABC):
    """Batches by the number of the step, each put together from parts.

    A part follows from its numbers alone, so that it may be made in any process.

    Attributes:
        parts: how many parts a batch has.
        images: what the parts are made from; a NumPy array of it is shared by the
            worker processes, anything else is pickled.
    """

    parts: int
    images = None

    @abc.abstractmethod
    def prepare(self, step, part):
        """A part of a step: a dict or tuple of arrays."""

    @abc.abstractmethod
    def join(self, step, parts):
        """The batch of a step from its parts, in order."""

    def __getitem__(self, step):
        return self.join(step, [self.prepare(step, n) for n in range(self.parts)])


def default_workers(steps):
    """How many worker processes are fastest; 0 for threads of this process.

    A process for each core where images are decoded and there are more cores than
    threads can use.
    """
    is_decoded = not isinstance(steps.images, np.ndarray)
    return cores() if is_decoded and cores() > MOST_THREADS else 0


class Feed:
    """Reads batches that are prepared ahead.

    What a batch holds depends neither on the number of workers nor on where reading
    begins.

    Args:
        steps: a `Steps`.
        workers: processes that prepare the parts; 0 for threads of this process,
            `None` for `default_workers`.

    Attributes:
        threads: how many prepare the parts if there are no workers.
        waited: for how many seconds batches were waited for so far.
    """

    def __init__(self, steps, workers=None):
        self.steps = steps
        self.workers = default_workers(steps) if workers is None else workers
        self.threads = cores()
        self.waited = 0.0

    def read(
        self, first: int, last: int, place: Callable[[Any], Any] | None = None
    ) -> Generator[Any]:
        """Yields the batches of the steps from the first on, before the last.

        Args:
            first: number of the first step.
            last: number of the step after the last one.
            place: begins to copy a batch to the device, and returns it there; called
                ahead, too.

        Raises:
            WorkerError: if a worker process is killed.
            OSError: if there is too little shared memory for the workers.
        """
        if first >= last:
            return
        with contextlib.ExitStack() as held:
            parts = self._parts(first, last, held)
            batches = (
                self.steps.join(step, list(itertools.islice(parts, self.steps.parts)))
                for step in range(first, last)
            )
            if place:
                batches = map(place, batches)
            joiner = held.enter_context(ThreadPoolExecutor(1))
            waiting = joiner.submit(next, batches)
            for _ in range(first, last):
                start = time.perf_counter()
                batch = waiting.result()
                self.waited += time.perf_counter() - start
                # One batch ahead, put together while the device computes.
                waiting = joiner.submit(next, batches, None)
                yield batch

    def _parts(self, first, last, held):
        """An iterator over the parts of all steps, which ends when `held` does."""
        grain = _import_grain()
        steps, number = self.steps, (last - first) * self.steps.parts
        ahead = AHEAD * steps.parts
        if not self.workers:
            options = grain.ReadOptions(self.threads, max(ahead, self.threads))
            parts = grain.MapDataset.source(_Parts(steps, first, number))
            parts = iter(parts.to_iter_dataset(options))
            held.callback(parts.close)
            return parts
        held.push(_release_arrays)
        if isinstance(steps.images, np.ndarray):
            steps = copy.copy(steps)
            steps.images = held.enter_context(_shared(steps.images))
        workers = min(self.workers, number)
        parts = grain.MapDataset.source(_Parts(steps, first, number))
        parts = parts.to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(
            grain.MultiprocessingOptions(workers, -(-ahead // (2 * workers))),
            _watch_parent,
        )
        parts = iter(parts)
        held.callback(_end_children, set(multiprocessing.active_children()))
        held.callback(parts.close)
        with _naming_the_cause(), _main_module(Path(__file__).with_name("worker.py")):
            # They are there when each has given something.
            started = list(itertools.islice(parts, workers))
        return _named(itertools.chain(started, parts))


class _Parts:
    """The parts of all steps in a row, for Grain."""

    def __init__(self, steps, first, number):
        self.steps = steps
        self.first = first
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        step, part = divmod(index, self.steps.parts)
        return self.steps.prepare(self.first + step, part)


def _import_grain():
    import absl.flags
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)  # it warns where JAX is not there
    import grain

    # Else worker processes fail.
    absl.flags.FLAGS.mark_as_parsed()
    return grain


def _watch_parent(*_):
    """Has a worker process end with its parent, however that ends."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _release_arrays(kind, error, trace):
    """Has no exception refer to arrays in shared memory, which would stay there.

    Whatever ends an iterator of Grain refers to the last arrays that it gave.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    gc.collect()


def _end_children(others):
    """Ends the worker processes that Grain has started, but not yet used."""
    for process in set(multiprocessing.active_children()) - others:
        process.terminate()
        process.join()


@contextlib.contextmanager
def _main_module(path):
    """Within it, new processes run a file in the place of the main module."""
    main = sys.modules["__main__"]
    names = ("__spec__", "__file__")
    before = {name: getattr(main, name) for name in names if hasattr(main, name)}
    main.__spec__, main.__file__ = None, str(path)
    try:
        yield
    finally:
        del main.__spec__, main.__file__
        vars(main).update(before)


@contextlib.contextmanager
def _shared(array):
    """A copy of an array in shared memory, which pickling does not copy."""
    from grain.python import SharedMemoryArray

    check_shared_memory(array.nbytes)
    shared = SharedMemoryArray(array.shape, array.dtype)
    shared[:] = array
    try:
        yield shared
    finally:
        shared.shm.unlink()


def check_shared_memory(needed):
    """Raises an OSError if there is no room for so many bytes.

    The system would kill the process that writes them.
    """
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else needed
    if needed > free:
        raise OSError(
            f"{SHARED_MEMORY} has room for {free >> 20} MB, but the workers need "
            f"{(needed >> 20) + 1} MB; make it larger (docker run --shm-size=8g), or "
            "take --workers 0."
        )


def _named(parts):
    with _naming_the_cause():
        yield from parts


@contextlib.contextmanager
def _naming_the_cause():
    """Says in a sentence why a worker process ended."""
    try:
        yield
    except RuntimeError as error:
        code = str(error).partition("terminated unexpectedly with exit code ")[2]
        if not code:
            raise
        number = -int(code.partition(".")[0])
        name = signal.Signals(number).name if number > 0 else f"exit code {-number}"
        advice = (
            f"{SHARED_MEMORY} is full; make it larger (docker run --shm-size=8g), or "
            "take --workers 0"
            if name == "SIGBUS"
            else "too little memory ends processes, too; take fewer --workers then"
        )
        raise WorkerError(
            f"A worker process that prepares images ended ({name}): {advice}."
        ) from None
