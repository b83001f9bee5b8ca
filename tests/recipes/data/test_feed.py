"""Batches are the same from threads and from any number of worker processes."""

import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import absl.logging
import numpy as np
import psutil
import pytest

from recipes.data import feed
from recipes.data.feed import Feed, Steps, WorkerError

pytestmark = [pytest.mark.any_backend, pytest.mark.slow]

PACKAGE = Path(feed.__file__).parents[2]


class Numbers(Steps):
    """Batches that say which process made them, and fail where they are told to."""

    parts = 3

    def __init__(self, images=None, fail_at=None, kill_at=None):
        self.arrays = {"numbers": ((6, 3), "int64"), "parts": ((3,), "uint8")}
        self.images = images
        self.fail_at = fail_at
        self.kill_at = kill_at

    def prepare(self, step, part, arrays):
        if (step, part) == self.fail_at:
            raise ValueError(f"part {part} of step {step} cannot be made")
        if (step, part) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        value = step * self.parts + part
        if self.images is not None:
            value += int(self.images[step])
        arrays["numbers"][2 * part : 2 * part + 2] = value
        arrays["parts"][part] = part
        return os.getpid(), _modules(), _megabytes()

    def join(self, step, arrays, found):
        processes, modules, megabytes = zip(*found, strict=True)
        np.testing.assert_array_equal(arrays["parts"], range(3))
        return arrays["numbers"], set(processes), set().union(*modules), megabytes


def _modules():
    """Those that a worker must not have."""
    found = ("keras", "tensorflow", "jax", "torch", "keras_cbvit.models")
    return sorted(name for name in found if sys.modules.get(name))


def _megabytes():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def shared_memory():
    """What is there of arrays that processes share."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("psm_")}


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """No worker process is."""
    yield
    assert not children(os.getpid())


def children(process):
    """The worker processes of a process."""
    return [
        child.pid
        for child in psutil.Process(process).children()
        if any("spawn_main" in argument for argument in child.cmdline())
    ]


class Encoded:
    """Images that lie in an array inside an object, as those that are cropped do."""

    def __init__(self, array):
        self.array = array

    def __getitem__(self, index):
        return self.array[index, -1]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_batches_come_in_order_from_any_number_of_workers(workers):
    array = np.zeros((10, 25 << 20), "uint8")  # more than a worker may hold
    array[:, -1] = np.arange(10) * 20
    steps = Numbers(Encoded(array))
    read = list(Feed(steps, workers).read(3, 8))
    assert len(read) == 5
    for step, (numbers, processes, modules, megabytes) in enumerate(read, 3):
        expected = np.repeat(3 * step + np.arange(3), 2) + 20 * step
        np.testing.assert_array_equal(numbers, expected[:, None] * np.ones((1, 3)))
        if workers:
            assert os.getpid() not in processes
            assert modules == set()
            assert max(megabytes) < 200
    made_by = set().union(*(processes for _, processes, *_ in read))
    assert len(made_by) == max(workers, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_where_the_batch_is_used(workers):
    read = Feed(Numbers(fail_at=(4, 1)), workers).read(2, 8)
    assert [int(batch[0][0, 0]) for batch in (next(read), next(read))] == [6, 9]
    with pytest.raises(ValueError, match="part 1 of step 4 cannot be made"):
        next(read)


def test_an_error_in_the_first_part_ends_the_workers_that_are_starting():
    with pytest.raises(ValueError, match="part 0 of step 0 cannot be made"):
        next(Feed(Numbers(fail_at=(0, 0)), 4).read(0, 100))


def test_a_worker_that_is_killed_is_an_error_in_a_sentence():
    read = Feed(Numbers(kill_at=(4, 1)), 2).read(2, 8)
    with pytest.raises(
        WorkerError, match=r"prepares images died \(SIGKILL\): if the machine"
    ):
        list(read)


def test_reading_may_end_early():
    read = Feed(Numbers(), 2).read(0, 1000)
    next(read)
    assert len(children(os.getpid())) == 2
    read.close()


@pytest.mark.parametrize("large", ["images", "batches"])
def test_too_little_shared_memory_is_an_error_before_any_worker_starts(large, tmp_path):
    steps = Numbers(np.zeros(10))
    number = shutil.disk_usage("/dev/shm").total + 2**20
    if large == "images":
        # A sparse file, which takes no space here.
        images = np.memmap(tmp_path / "images", "uint8", "w+", shape=number)
        steps.images = np.asarray(images)
    else:
        steps.arrays = {**steps.arrays, "more": ((number,), "uint8")}
    with pytest.raises(OSError, match=r"^/dev/shm is full: .* MB more; .*shm-size=8g"):
        next(Feed(steps, 2).read(0, 5))


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_used_again_once_nothing_refers_to_a_batch(workers):
    places, kept = set(), []
    for step, (numbers, *_) in enumerate(Feed(Numbers(), workers).read(0, 60)):
        places.add(numbers.ctypes.data)
        if step % 20 == 0:
            kept.append(numbers[1:])  # a view keeps it
        del numbers
    assert 4 <= len(places) < 20
    for n, numbers in enumerate(kept):
        assert numbers[0, 0] == 60 * n and numbers[-1, 0] == 60 * n + 2


class Silent(Steps):
    """Parts that fill their rows, and have nothing else to say."""

    parts = 2

    def __init__(self):
        self.arrays = {"numbers": ((2,), "int64")}

    def prepare(self, step, part, arrays):
        arrays["numbers"][part] = 2 * step + part

    def join(self, step, arrays, found):
        return arrays["numbers"].tolist()


class Arrays(Silent):
    """Batches that are arrays, of which a step may fail."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.fail_at = fail_at

    def prepare(self, step, part, arrays):
        if step == self.fail_at:
            raise ValueError(f"step {step} cannot be made")
        super().prepare(step, part, arrays)

    def join(self, step, arrays, found):
        return arrays["numbers"]


@pytest.mark.parametrize("workers", [0, 2])
def test_parts_may_have_nothing_to_say(workers):
    expected = [[2 * step, 2 * step + 1] for step in range(20)]
    verbosity = absl.logging.get_verbosity()
    assert list(Feed(Silent(), workers).read(0, 20)) == expected
    assert absl.logging.get_verbosity() == verbosity


class Slow(Silent):
    def prepare(self, step, part, arrays):
        time.sleep(0.05)
        super().prepare(step, part, arrays)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_reading_ends_while_a_batch_is_waited_for(workers):
    def read_little():
        for _ in range(4):
            read = Feed(Slow(), workers).read(0, 1000)
            next(read)
            read.close()

    thread = threading.Thread(target=read_little, daemon=True)
    thread.start()
    thread.join(120)
    assert not thread.is_alive()


def test_reading_ends_while_workers_wait_for_memory(monkeypatch):
    monkeypatch.setattr(Feed, "ahead", 1)  # so little that they wait at once
    read = Feed(Silent(), 2).read(0, 1000)
    assert next(read) == [0, 1]
    time.sleep(0.5)
    thread = threading.Thread(target=read.close, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_other_processes_go_on_when_reading_ends():
    read = Feed(Silent(), 2).read(0, 1000)
    next(read)
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    other.start()
    try:
        read.close()
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def test_workers_import_what_prepares_batches():
    for name in ("evaluation.pixels", "evaluation.measuring", "benchmark.feed"):
        importlib.import_module(f"recipes.{name}")
    importlib.import_module("recipes.data.segmentation.batches")

    def modules(kind):
        for each in kind.__subclasses__():
            yield each.__module__
            yield from modules(each)

    names = {name for name in modules(Steps) if name.startswith("recipes.")}
    assert {"recipes.data.batches", "recipes.data.segmentation.whole"} < names
    worker = Path(feed.__file__).with_name("worker.py")
    script = (
        "import importlib, runpy\n"
        f"runpy.run_path({str(worker)!r})\n"
        f"for name in {sorted(names)}: importlib.import_module(name)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


SCRIPT = """
import signal, sys, time
# A job in the background ignores Ctrl-C, and its children do.
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.recipes.data.test_feed import Numbers
from recipes.data.feed import Feed
for batch in Feed(Numbers(), 2).read(0, 10**6):
    print("batch", flush=True)
    time.sleep(0.05)
"""


LIMITED = """
import os, resource
from tests.recipes.data.test_feed import Numbers
from recipes.data.feed import Feed

def open_four(soft, hard):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    read = Feed(Numbers(), 4).read(0, 100)
    print(next(read)[0][0, 0])
    read.close()

few = len(os.listdir("/proc/self/fd")) + 20
open_four(few, 1000)
open_four(few, few)
"""


def test_as_many_files_are_open_as_the_system_allows():
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "0\n"
    assert "OSError: Worker processes require more open files than" in done.stderr


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(ending):
    # Not in a file with a guard: workers do not run the main module.
    before = shared_memory()
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # Then memory is used again, and none is made that Python does not know of yet.
    for _ in range(20):
        assert program.stdout.readline() == "batch\n"
    workers = children(program.pid)
    assert len(workers) == 2
    if ending == signal.SIGINT:
        os.killpg(program.pid, ending)  # as Ctrl-C
    else:
        program.kill()
    _, errors = program.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while shared_memory() - before or any(
        Path(f"/proc/{worker}").exists() for worker in workers
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # The workers say nothing.
    assert errors.count("Traceback") == (ending == signal.SIGINT)
