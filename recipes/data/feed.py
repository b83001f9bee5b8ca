"""Batches made ahead of their use, by Grain: in threads or in worker processes."""

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
    MemoryOfProcesses,
    Shared,
)

AHEAD = 3  # batches that are prepared while the device computes
MOST_THREADS = 8  # more do not prepare more: Python's lock
_STARTING = threading.Lock()  # the main module is another one while workers start


class WorkerError(ChildProcessError):
    """A worker process ended before its work was done."""


class Steps(abc.ABC):
    """Batches by the number of the step, each put together from parts.

    A part follows from its numbers alone, so that it may be made in any process.

    Attributes:
        parts: how many parts a batch has.
        arrays: shape and dtype of the arrays of a batch that its parts fill, by their
            names.
        images: what the parts are made from; a NumPy array if nothing is decoded.
    """

    parts: int
    arrays: Mapping[str, tuple[tuple[int, ...], str]] = types.MappingProxyType({})
    images = None

    @abc.abstractmethod
    def prepare(self, step, part, arrays):
        """Makes a part of a step.

        Args:
            step: number of the step.
            part: number of the part.
            arrays: those of the batch, of any content, of which the part fills its own
                rows.

        Returns:
            What else `join` has to know, which is pickled.
        """

    @abc.abstractmethod
    def join(self, step, arrays, found):
        """The batch of a step.

        Args:
            step: number of the step.
            arrays: those of the batch, which the parts have filled.
            found: what `prepare` has returned for each part.
        """

    def __getitem__(self, step):
        with Memory(self.arrays, range(step, step + 1)) as memory:
            memory.add(step)
            with memory.fill(step) as arrays:
                found = [self.prepare(step, part, arrays) for part in range(self.parts)]
            return self.join(step, memory.take(step), found)


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
            batches = self._batches(first, last, held)
            if place:
                batches = map(place, batches)
            # It ends before the parts do, whose end would leave it waiting for ever.
            joiner = held.enter_context(ThreadPoolExecutor(1))
            waiting = joiner.submit(next, batches)
            for _ in range(first, last):
                start = time.perf_counter()
                batch = waiting.result()
                self.waited += time.perf_counter() - start
                # One batch ahead, put together while the device computes.
                waiting = joiner.submit(next, batches, None)
                yield batch

    def _batches(self, first, last, held):
        """An iterator over the batches, which ends when `held` does."""
        memory, start = Memory, self._start_threads
        if self.workers:
            allow_open_files()
            memory, start = MemoryOfProcesses, self._start_processes
        with _naming_the_cause():
            memory = held.enter_context(memory(self.steps.arrays, range(first, last)))
            for step in memory.steps[: self.ahead]:
                memory.add(step)
            return self._joined(memory, start(memory, held))

    def _joined(self, memory, parts):
        """Yields the batches of all steps; they get their memory some steps ahead."""
        for step in memory.steps:
            if step + self.ahead in memory.steps:
                memory.add(step + self.ahead)
            found = [next(parts)[0] for _ in range(self.steps.parts)]
            yield self.steps.join(step, memory.take(step), found)

    @property
    def ahead(self):
        """How many batches are begun at most before one is used."""
        if self.workers:
            # Of each worker, parts wait there and here; it makes one, and hands one on
            # there and here.
            parts = (2 * self._buffer + 3) * self.workers
        else:
            parts = self._parts_of_threads
        return 1 - (-parts // self.steps.parts)

    @property
    def _buffer(self):
        """How many parts wait for their use, of a worker, there and here."""
        return -(-AHEAD * self.steps.parts // (2 * self.workers))

    @property
    def _parts_of_threads(self):
        """How many parts threads have begun."""
        return max(AHEAD * self.steps.parts, self.threads)

    def _start_threads(self, memory, held):
        """An iterator over the parts of all steps, which ends when `held` does."""
        grain = _import_grain()
        options = grain.ReadOptions(self.threads, self._parts_of_threads)
        parts = grain.MapDataset.source(_Parts(self.steps, memory))
        parts = iter(parts.to_iter_dataset(options))
        held.callback(parts.close)
        return parts

    def _start_processes(self, memory, held):
        """The same, of worker processes."""
        grain = _import_grain()
        shared = held.enter_context(Shared(_Parts(self.steps, memory)))
        workers = min(self.workers, len(shared))
        parts = grain.MapDataset.source(shared)
        parts = parts.to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(
            grain.MultiprocessingOptions(workers, self._buffer), _watch_parent
        )
        # Grain's own shared memory would be fresh for each part.
        options = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        parts = grain.experimental.WithOptionsIterDataset(parts, options)
        parts = iter(parts)
        own = set()
        held.callback(_end, own)
        held.callback(parts.close)
        # It takes what waits from the queues, and workers would begin further parts.
        held.callback(memory.stop)
        with _STARTING:
            others = set(multiprocessing.active_children())
            try:
                with _main_module(Path(__file__).with_name("worker.py")):
                    # They are there when each has given something.
                    first = list(itertools.islice(parts, workers))
            finally:
                own |= set(multiprocessing.active_children()) - others
        return _named(itertools.chain(first, parts))


class _Parts:
    """The parts of all steps in a row, for Grain."""

    def __init__(self, steps, memory):
        self.steps = steps
        self.memory = memory

    def __len__(self):
        return len(self.memory.steps) * self.steps.parts

    def __getitem__(self, index):
        step, part = divmod(index, self.steps.parts)
        step = self.memory.steps[step]
        with self.memory.fill(step) as arrays:
            # Not alone: Grain passes over `None`.
            return (self.steps.prepare(step, part, arrays),)


def _import_grain():
    import absl.flags
    import absl.logging

    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)  # it warns where JAX is not there
    try:
        import grain
    finally:
        absl.logging.set_verbosity(verbosity)
    # Else worker processes fail.
    absl.flags.FLAGS.mark_as_parsed()
    return grain


def _watch_parent(*_):
    """Has a worker process end with its parent, however that ends."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _end(processes):
    """Ends worker processes, of which Grain ends only those that it has used."""
    for process in processes:
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


def _named(parts):
    with _naming_the_cause():
        yield from parts


@contextlib.contextmanager
def _naming_the_cause():
    """Says in a sentence why worker processes ended, or could not start."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise OSError(
            "Worker processes need more open files than the system allows; raise the "
            "hard limit (ulimit -Hn), or use fewer --workers."
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
            else "too little memory ends processes, too; use fewer --workers then, or "
            f"{USE_THREADS}"
        )
        raise WorkerError(
            f"A worker process that prepares images ended ({name}): {advice}."
        ) from None
