"""The runs of a table as tasks of a Ray cluster; Ray is the extra `ray`."""

import contextlib
import os
import sys

import keras

from ..addresses import check_listens
from ..commands import MENDABLE, sentence
from ..machine import cores
from ..training.devices import thread_variables, threads

RETRIES = 3
"""How often a run goes on whose process or machine has died."""
_OBJECT_STORE = 100 << 20  # bytes; nothing large goes through it


def train_on_ray(address, runs, missing, measures):
    """Trains and measures models as tasks of a Ray cluster.

    A task is `runs.values` of one model, in a process of its own and in the run folder
    that it has without Ray. All machines must share this folder, by the same path. A
    run whose process dies goes on from its last checkpoint, where there is room. One
    that fails by itself leaves the others alone.

    Args:
        address: `"local"` for a cluster of this machine alone, which ends with the
            runs; `"auto"` for the one that this machine belongs to; or an address.
        runs: a `recipes.paper.runs.Runs`.
        missing: model, size and seed of each run.
        measures: what is measured of each.

    Raises:
        ValueError: if Ray is not installed, the address is of Ray's client, or no
            machine has room for a run.
        ConnectionError: if there is no cluster at the address, or it refuses the token.
        ChildProcessError: if runs failed, after the others have ended.
    """
    ray = _import_ray()
    with _connection(ray, address):
        share = _share(ray.nodes(), runs.options["run"]["devices"])
        # One run for each process, as memory of a GPU is freed by its end.
        task = ray.remote(max_calls=1, max_retries=RETRIES, **share)(_run)
        unset = [name for name, value in thread_variables().items() if value is None]
        number = max(int(share["num_cpus"]), 1)
        names = {}
        for model, size, seed in missing:
            name = f"{model}, {size}, seed {seed}"
            settings = runs, model, size, seed, measures
            named = task.options(name=name)
            names[named.remote(os.getcwd(), unset, number, settings)] = name
        failures = _wait(ray, names)
    if failures:
        raise ChildProcessError(
            f"{len(failures)} of {len(names)} runs failed; the same command goes on "
            f"with them. {' '.join(failures)}"
        )


def _import_ray():
    # It reads both when it is imported.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # runs that go well say the same
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.exceptions  # a folder named ray is no package
    except ImportError as error:
        raise ValueError(
            "--ray needs the package ray: pip install keras_cbvit[ray]."
        ) from error
    return ray


@contextlib.contextmanager
def _connection(ray, address):
    """Within it, tasks run on a cluster with the environment of this process."""
    variables = {
        "KERAS_BACKEND": keras.backend.backend(),
        "PYTHONPATH": os.environ.get("PYTHONPATH"),
        "TQDM_DISABLE": "1",  # bars of several runs; a line for each epoch is left
        **thread_variables(),
    }
    if keras.backend.backend() == "torch":
        variables["OMP_NUM_THREADS"] = str(threads())
    given = {name: value for name, value in variables.items() if value is not None}
    options = {"runtime_env": {"env_vars": given}, "logging_level": "WARNING"}
    if address == "local":
        options["num_cpus"] = cores()
        options["object_store_memory"] = _OBJECT_STORE
        options["include_dashboard"] = False
    else:
        _check_address(address)
    try:
        ray.init(address, **options)
    except ray.exceptions.AuthenticationError as error:
        raise ConnectionError(f"ray={address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address):
    """Raises an error where `ray.init` would fail later, or without a sentence."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if "://" in address:
        raise ValueError(
            f"ray={address!r} is of Ray's client, which is not supported; run the "
            "command on a machine of the cluster, with --ray auto."
        )
    if address.rpartition(":")[2].isdecimal():
        advice = "start one by ray start --head, or use --ray local"
        check_listens(address, "Ray cluster", advice)


def _share(nodes, devices):
    """The cores and GPUs of a run, as options of a task.

    Where there are GPUs, a run has as many as it trains on, and their share of the
    cores. Else it has a core for each thread that it would compute with here: the last
    bits depend on their number.

    Args:
        nodes: of the cluster, as `ray.nodes()` gives them.
        devices: of `Run`.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    cores_by_gpu = [
        each.get("CPU", 0) // each["GPU"] for each in machines if each.get("GPU")
    ]
    if cores_by_gpu:
        gpus = devices or 1
        share = {"GPU": gpus, "CPU": gpus * min(cores_by_gpu)}
        lack = f"devices={gpus}: no machine of the Ray cluster has so many GPUs."
    else:
        share = {"GPU": 0, "CPU": _threads()}
        lack = (
            f"A run computes with {_threads()} threads here, and no machine of the Ray "
            "cluster has so many cores; set OMP_NUM_THREADS (torch), "
            "TF_NUM_INTRAOP_THREADS (TensorFlow) or NPROC (JAX)."
        )
    if not any(
        all(each.get(kind, 0) >= number for kind, number in share.items())
        for each in machines
    ):
        raise ValueError(lack)
    return {"num_gpus": share["GPU"], "num_cpus": share["CPU"]}


def _threads():
    """Those of a run on the CPU, as the environment says, or as here."""
    said = [value for value in thread_variables().values() if value]
    return min((int(each) for each in said if each.isdigit()), default=threads())


def _run(folder, unset, number, settings):
    """The task: what the loop without Ray does for one model."""
    os.chdir(folder)  # relative paths mean the same
    for name in unset:  # which Ray has set
        os.environ.pop(name, None)
    os.environ["PYTHON_CPU_COUNT"] = str(number)  # others run on the other cores
    runs, *model, measures = settings
    runs.values(*model, measures)


def _wait(ray, names):
    """Reports each run as it ends; returns a sentence for each that failed.

    Args:
        names: of the runs, by what Ray will give of them.
    """
    failures, pending = [], list(names)
    while pending:
        (done,), pending = ray.wait(pending)
        try:
            ray.get(done)
            what = "complete"
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            if not isinstance(cause, MENDABLE):
                print(error, file=sys.stderr)  # the traceback of the task
            what = f"failed ({sentence(cause)})"
            failures.append(f"{names[done]} {what}.")
        ended = len(names) - len(pending)
        print(f"{ended} of {len(names)}: {names[done]} {what}.", file=sys.stderr)
    return failures
