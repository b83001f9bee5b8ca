"""Memory for batches, reused once a batch is no longer referenced.

Allocating new memory for each batch takes longer than filling it.
"""

import collections
import contextlib
import errno
import math
import mmap
import os
import pickle
import time
import weakref
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np

SHARED_MEMORY = Path("/dev/shm")
USE_THREADS = (
    "use threads (--workers 0; where there is no such option, the environment variable "
    "PYTHON_CPU_COUNT=8)"
)
ALIGNMENT = 64  # bytes; JAX and TensorFlow use aligned arrays without a copy


class Memory:
    """Context manager of the arrays of batches that threads of this process fill.

    Args:
        arrays: dict from name to shape and dtype of the arrays of a batch.
        steps: range of the steps.
    """

    def __init__(self, arrays, steps):
        self.steps = steps
        self.layout = {}
        self.size = 0
        for name, (shape, dtype) in arrays.items():
            self.layout[name] = self.size, shape, np.dtype(dtype)
            self.size += _align(math.prod(shape) * np.dtype(dtype).itemsize)
        self.batches = {}
        self.free = collections.deque()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Does nothing; batches that are still referenced stay valid."""

    def add(self, step):
        """Allocates or reuses memory for the batch of a step."""
        block = self.free.pop() if self.free else self._allocate()
        whole = np.ndarray(self.size, "uint8", block.buf)
        # All views refer to this array, so it is finalized after the last of them.
        weakref.finalize(whole, self.free.append, block).atexit = False
        self.batches[step] = self._views(whole)
        return block

    def take(self, step):
        """Returns the arrays of a step by name, and drops the references to them."""
        return self.batches.pop(step)

    @contextlib.contextmanager
    def fill(self, step):
        """Context manager of the arrays of a step, for filling a part of them."""
        yield self.batches[step]

    def _views(self, whole):
        views = {}
        for name, (start, shape, dtype) in self.layout.items():
            end = start + math.prod(shape) * dtype.itemsize
            views[name] = whole[start:end].view(dtype).reshape(shape)
        return views

    def _allocate(self):
        return _Block(mmap.mmap(-1, max(self.size, 1)))


class _Block:
    """Memory of this process, with the attribute `buf` of `SharedMemory`."""

    def __init__(self, buf):
        self.buf = buf


class ProcessMemory(Memory):
    """Context manager of the arrays of batches that worker processes fill.

    Workers open the memory of a batch by name, only while filling it. A shared table
    contains the number of each step's memory block.

    Raises:
        OSError: if there is too little shared memory, here or in `add`.
    """

    def __init__(self, arrays, steps):
        super().__init__(arrays, steps)
        self.blocks = {}
        self.table = shared_block(4 * len(steps))

    def __exit__(self, *_):
        for block in (self.table, *self.blocks):
            block.unlink()

    def add(self, step):
        block = super().add(step)
        self._numbers()[step - self.steps.start] = self.blocks[block]
        return block

    @contextlib.contextmanager
    def fill(self, step):
        while not (number := self._numbers()[step - self.steps.start]):
            time.sleep(0.001)
        if number < 0:
            raise RuntimeError("Reading has stopped.")
        block = SharedMemory(self._name(number))
        try:
            yield self._views(np.ndarray(self.size, "uint8", block.buf))
        finally:
            block.close()

    def stop(self):
        """Stops workers from waiting for memory, so that they can be terminated."""
        numbers = self._numbers()
        numbers[numbers == 0] = -1

    def __getstate__(self):
        names = "steps", "layout", "size", "table"
        return {name: getattr(self, name) for name in names}

    def _numbers(self):
        """Returns the number of each step's block; 0 if not yet allocated."""
        return np.ndarray(len(self.steps), "int32", self.table.buf)

    def _name(self, number):
        return f"{self.table.name}_{number}"

    def _allocate(self):
        number = len(self.blocks) + 1
        block = shared_block(self.size, self._name(number))
        self.blocks[block] = number
        return block


class Shared(Sequence):
    """Context manager of a sequence that worker processes read from shared memory.

    The sequence is pickled once, into shared memory. Workers unpickle it from there
    without copying its arrays.

    Args:
        values: the sequence, which must be picklable.

    Raises:
        OSError: if there is too little shared memory.
    """

    def __init__(self, values):
        import cloudpickle

        self.values = values
        arrays = []
        pickled = cloudpickle.dumps(values, 5, buffer_callback=arrays.append)
        buffers = [memoryview(pickled), *(array.raw() for array in arrays)]
        self.places, size = [], 0
        for buffer in buffers:
            self.places.append(slice(size, size + buffer.nbytes))
            size += _align(buffer.nbytes)
        self.block = shared_block(size)
        for place, buffer in zip(self.places, buffers, strict=True):
            self.block.buf[place] = buffer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.block.close()
        self.block.unlink()

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return self.values[index]

    def __getstate__(self):
        return {"block": self.block, "places": self.places}

    def __setstate__(self, state):
        vars(self).update(state)
        # Views of an array, unlike views of the buffer, do not prevent closing it.
        whole = np.ndarray(self.block.size, "uint8", self.block.buf)
        whole.flags.writeable = False
        pickled, *arrays = (whole[place] for place in self.places)
        self.values = pickle.loads(pickled.data, buffers=arrays)


def _align(size):
    return -(-size // ALIGNMENT) * ALIGNMENT


def shared_block(size, name=None):
    """Allocates a block of shared memory, filled with zeros.

    Raises:
        OSError: if there is too little shared memory; otherwise the system would kill
            the process that writes to it.
    """
    block = SharedMemory(name, create=True, size=max(size, 1))
    try:
        if SHARED_MEMORY.is_dir():
            with open(SHARED_MEMORY / block.name, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, block.size)
    except OSError as error:
        block.close()
        block.unlink()
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            f"{SHARED_MEMORY} is full: the workers require {(size >> 20) + 1} MB more; "
            f"make it larger (docker run --shm-size=8g), or {USE_THREADS}."
        ) from None
    return block
