"""Training of a table's models on a Ray cluster; Ray is the extra `ray`."""

import contextlib
import os
import sys

import keras

from ..addresses import check_listens
from ..commands import USER_ERRORS, format_error
from ..machine import cores
from ..training.devices import thread_variables, threads

RETRIES = 3
"""Number of times to resume a run whose process or machine died."""
_OBJECT_STORE = 100 << 20  # bytes; only small objects pass through it


def train_on_ray(address, runs, missing, measures):
    """Trains and evaluates models as tasks of a Ray cluster.

    A task calls `runs.values` for one model, in a separate process and in the same run
    folder as without Ray. All machines must share this folder under the same path. A
    run whose process dies is resumed from its last checkpoint on any machine with free
    resources. A run that fails with an error does not affect the others.

    Args:
        address: `"local"` for a temporary cluster on this machine; `"auto"` for the
            cluster that this machine belongs to; or an address.
        runs: a `recipes.paper.runs.Runs`.
        missing: model, size and seed of each run.
        measures: names of the measures to evaluate.

    Raises:
        ValueError: if Ray is not installed, the address is one of Ray Client, or no
            machine has enough resources for a run.
        ConnectionError: if no cluster listens at the address, or it rejects the token.
        ChildProcessError: if runs failed; raised after the others have finished.
    """
    ray = _import_ray()
    with _connection(ray, address):
        share = _share(ray.nodes(), runs.options["run"]["devices"])
        # One run per process, since GPU memory is freed only when a process exits.
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
            f"{len(failures)} of {len(names)} runs failed; repeat the command to "
            f"resume them. {' '.join(failures)}"
        )


def _import_ray():
    # Ray reads both on import.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # runs may print identical lines
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.exceptions  # fails if `ray` is only a folder of that name
    except ImportError as error:
        raise ValueError(
            '--ray requires the package ray: pip install "keras_cbvit[ray]"'
        ) from error
    return ray


@contextlib.contextmanager
def _connection(ray, address):
    """Connects to a cluster, and passes this process's environment to its tasks."""
    variables = {
        "KERAS_BACKEND": keras.backend.backend(),
        "PYTHONPATH": os.environ.get("PYTHONPATH"),
        "TQDM_DISABLE": "1",  # parallel runs print lines per epoch, no progress bars
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
    """Raises an error if `ray.init` would fail later or with an unclear message."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if "://" in address:
        raise ValueError(
            f"ray={address!r} is an address of Ray Client, which is not supported; run "
            "the command on a machine of the cluster with --ray auto."
        )
    if address.rpartition(":")[2].isdecimal():
        advice = "start one with `ray start --head`, or use --ray local"
        check_listens(address, "Ray cluster", advice)


def _share(nodes, devices):
    """Returns the cores and GPUs of a run, as options of a task.

    On a cluster with GPUs, a run gets as many as it trains on and their share of the
    cores. Otherwise it gets one core per thread that it would use on this machine,
    since the number of threads affects the last bits of the results.

    Args:
        nodes: nodes of the cluster, from `ray.nodes()`.
        devices: the field of `Run`.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    cores_by_gpu = [
        each.get("CPU", 0) // each["GPU"] for each in machines if each.get("GPU")
    ]
    if cores_by_gpu:
        gpus = devices or 1
        share = {"GPU": gpus, "CPU": gpus * min(cores_by_gpu)}
        lack = f"devices={gpus}: no machine of the Ray cluster has that many GPUs."
    else:
        share = {"GPU": 0, "CPU": _threads()}
        lack = (
            f"A run uses {_threads()} threads, but no machine of the Ray cluster has "
            "that many cores; set OMP_NUM_THREADS (torch), TF_NUM_INTRAOP_THREADS "
            "(TensorFlow) or NPROC (JAX) to fewer."
        )
    if not any(
        all(each.get(kind, 0) >= number for kind, number in share.items())
        for each in machines
    ):
        raise ValueError(lack)
    return {"num_gpus": share["GPU"], "num_cpus": share["CPU"]}


def _threads():
    """Returns the number of threads of a CPU run, by environment or this machine."""
    said = [value for value in thread_variables().values() if value]
    return min((int(each) for each in said if each.isdigit()), default=threads())


def _run(folder, unset, number, settings):
    """Runs a task, which does the same for one model as the loop without Ray."""
    os.chdir(folder)  # for relative paths
    for name in unset:  # variables set by Ray
        os.environ.pop(name, None)
    os.environ["PYTHON_CPU_COUNT"] = str(number)  # other runs use the other cores
    runs, *model, measures = settings
    runs.values(*model, measures)


def _wait(ray, names):
    """Reports each run as it finishes; returns a message for each failed run.

    Args:
        names: dict from Ray object reference to the name of the run.
    """
    failures, pending = [], list(names)
    while pending:
        (done,), pending = ray.wait(pending)
        try:
            ray.get(done)
            what = "complete"
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            if not isinstance(cause, USER_ERRORS):
                print(error, file=sys.stderr)  # the traceback of the task
            what = f"failed ({format_error(cause)})"
            failures.append(f"{names[done]} {what}.")
        ended = len(names) - len(pending)
        print(f"{ended} of {len(names)}: {names[done]} {what}.", file=sys.stderr)
    return failures
