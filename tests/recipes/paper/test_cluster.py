"""The runs of a table on a real Ray cluster of this machine."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

import keras_cbvit
from recipes.paper.__main__ import main
from recipes.paper.cluster import _share
from recipes.training import run_folder
from recipes.training.devices import threads
from tests.tiny import assert_same_values, values

pytestmark = pytest.mark.any_backend

MARK = "KERAS_CBVIT_TEST_OF_RAY"
FIRST, LAST = "step_00000002.weights.h5", "step_00000004.weights.h5"


def arguments(entry, runs):
    """Of the command for a smoke run on the digits."""
    folders = ["--runs", str(runs), "--out", f"{runs}_out"]
    return [entry, "--dataset", "digits", "--smoke", "--seeds", "0", *folders]


@pytest.fixture
def paper(tmp_path):
    """A function that starts the command with Ray; its processes end with the test."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    if not Path("/proc/self/environ").exists():
        pytest.skip("finds Ray's processes in /proc")
    mark = str(uuid.uuid4())

    def start(entry):
        command = [sys.executable, "-m", "recipes.paper"]
        with (tmp_path / "ray.log").open("w") as log:
            return subprocess.Popen(
                [*command, *arguments(entry, tmp_path / "ray"), "--ray", "local"],
                # With one thread, two runs at a time on two cores.
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "OMP_NUM_THREADS": str(threads()),
                    MARK: mark,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    start.processes = lambda: marked(mark)
    try:
        yield start
        # Ray's own have a moment to follow the command.
        end = time.monotonic() + 20
        while start.processes() and time.monotonic() < end:
            time.sleep(0.2)
        left = [(each / "cmdline").read_bytes() for each in start.processes()]
    finally:
        for each in start.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(each.name), signal.SIGKILL)
    assert not left


def marked(mark):
    """The folders in /proc of the processes with a mark in their environment."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (each / "environ").read_bytes():
                found.append(each)
    return found


def holders(file, processes):
    """The numbers of the processes that have a file open."""
    for each in processes:
        with contextlib.suppress(OSError):
            if any(fd.exists() and fd.samefile(file) for fd in (each / "fd").iterdir()):
                yield int(each.name)


def kill_in_the_middle(start, command, runs):
    """Kills the process of the first run that is between its two epochs.

    Returns:
        The checkpoint of the first, and when it was written.
    """
    while command.poll() is None:
        for first in runs.glob(f"digits/mini/*/*/checkpoints/{FIRST}"):
            if first.with_name(LAST).exists():
                continue
            for process in holders(first.parents[1] / "lock", start.processes()):
                os.kill(process, signal.SIGKILL)
                return first, first.stat().st_mtime_ns
        time.sleep(0.01)
    raise AssertionError("Every run ended before it was killed.")


def result(folder, entry):
    return json.loads((folder / "digits" / f"{entry}_smoke.json").read_text())


def logged(folder):
    with (folder / "log.csv").open() as log:
        rows = list(csv.DictReader(log))
    for row in rows:
        del row["images_per_second"], row["data_wait"]
    return rows


@pytest.mark.slow
def test_a_run_that_fails_or_is_killed_leaves_the_others_alone(paper, tmp_path):
    """The command, repeated, ends with the numbers of one run after the other."""
    folders = tmp_path / "ray" / "digits" / "mini"
    with run_folder.lock(folders / "cbs" / "seed_0_smoke"):
        command = paper("figure6")
        returned = command.wait(timeout=900)
    log = (tmp_path / "ray.log").read_text()
    assert returned == 1, log[-3000:]
    last = log.splitlines()[-1]
    assert last.startswith("ChildProcessError: 1 of 2 runs failed; repeat the command")
    assert "cbs, mini, seed 0 failed (ValueError: Another process is training" in last
    assert (folders / "cbs_from_one" / "seed_0_smoke" / "measures.json").exists()
    assert not (tmp_path / "ray_out").exists()

    command = paper("figure6")
    checkpoint, written = kill_in_the_middle(paper, command, tmp_path / "ray")
    returned = command.wait(timeout=900)
    log = (tmp_path / "ray.log").read_text()
    assert returned == 0, log[-3000:]
    assert checkpoint.stat().st_mtime_ns == written  # the first epoch was not repeated
    assert "(cbs, mini, seed 0 pid=" in log
    assert "Epoch 1 of 2: " in log
    assert log.count(" complete.\n") == 1

    main(arguments("figure6", tmp_path / "alone"))
    ours, theirs = (result(tmp_path / f"{n}_out", "figure6") for n in ("ray", "alone"))
    assert ours == theirs
    names = [row["model"] for row in ours["rows"]]
    assert names == ["cbs", "cbs_from_one"]
    for name in names:
        ours, theirs = (
            tmp_path / each / "digits" / "mini" / name / "seed_0_smoke"
            for each in ("ray", "alone")
        )
        assert logged(ours) == logged(theirs)
        models = (keras_cbvit.load_model(f / "model.keras") for f in (ours, theirs))
        assert_same_values(*map(values, models))


def test_a_run_has_its_share_of_the_cluster():
    small = {"Alive": True, "Resources": {"CPU": 2.0, "memory": 1e9}}
    large = {"Alive": True, "Resources": {"CPU": 96.0, "GPU": 8.0}}
    other = {"Alive": True, "Resources": {"CPU": 40.0, "GPU": 4.0}}
    gone = {"Alive": False, "Resources": {"CPU": 1.0, "GPU": 8.0}}
    nodes = [small, large, other, gone]
    assert _share(nodes, None) == {"num_gpus": 1, "num_cpus": 10}
    assert _share(nodes, 8) == {"num_gpus": 8, "num_cpus": 80}
    with pytest.raises(ValueError, match="devices=16: no machine of the Ray cluster"):
        _share(nodes, 16)


def test_without_gpus_a_run_has_a_core_for_each_thread(monkeypatch):
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}]
    monkeypatch.setattr("recipes.paper.cluster.threads", lambda: 3)
    assert _share(nodes, None) == {"num_gpus": 0, "num_cpus": 3}
    monkeypatch.setattr("recipes.paper.cluster.threads", lambda: 5)
    with pytest.raises(ValueError, match="5 threads, but no machine of the Ray"):
        _share(nodes, None)


def test_an_address_without_a_cluster_is_refused_at_once(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(
            SystemExit, match=f"No Ray cluster listens at {address}.*refused"
        ):
            main(["figure6", "--dataset", "digits", "--smoke", "--ray", address])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["ray://host:10001", "auto"])
def test_addresses_of_the_client_are_refused(address, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "ray://host:10001")  # which auto stands for
    message = "ray='ray://host:10001' is an address of Ray Client.*with --ray auto"
    with pytest.raises(SystemExit, match=message):
        main(["figure6", "--dataset", "digits", "--smoke", "--ray", address])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_missing_token_is_one_sentence(tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    with socket.socket() as cluster:
        cluster.bind(("127.0.0.1", 0))
        cluster.listen()
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        command = [sys.executable, "-m", "recipes.paper", "figure6", "--smoke"]
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
        done = subprocess.run(  # Ray reads the environment when it is imported
            [*command, "--dataset", "digits", "--ray", address],
            env={**os.environ, **environment, "RAY_AUTH_MODE": "token"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert f"\nConnectionError: ray='{address}': Token authentication" in done.stderr
    assert "Traceback" not in done.stderr


def test_ray_is_missed_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"pip install .keras_cbvit\[ray\]"):
        main(["figure6", "--dataset", "digits", "--smoke", "--ray", "local"])
    assert not list(tmp_path.iterdir())
