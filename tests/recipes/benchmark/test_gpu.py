import contextlib
import dataclasses
import json
from pathlib import Path

import keras
import pytest

from recipes.benchmark.gpu import Gpu, Job
from recipes.benchmark.model import Model
from recipes.commands import load_config, parse

pytestmark = [pytest.mark.slow, pytest.mark.any_backend]

BACKEND = keras.backend.backend()


@pytest.mark.parametrize("smoke", [False, True])
def test_every_job_is_a_command_that_parses(smoke, tmp_path):
    jobs = Gpu(runs=tmp_path, data_dir=tmp_path, smoke=smoke).jobs()
    assert len({job.name for job in jobs}) == len({job.results for job in jobs}) == 19
    assert all(job.results.parent == tmp_path for job in jobs)
    for job in (*jobs[:2], jobs[4], jobs[6], jobs[-1]):  # one of each kind
        option, module, *arguments = job.arguments
        assert option == "-m"
        if module == "recipes.benchmark":
            options = parse("model", Model, "", arguments[1:])
            assert options.json == job.results and options.backends == (job.backend,)
        else:
            assert module == "recipes.train"
            default = load_config(arguments[0]).config()
            found = parse("train", type(default), "", arguments[1:], default)
            assert found.run.folder == job.results


class Jobs(Gpu):
    """A training run as in a rehearsal, a job that takes too long, one that fails."""

    def jobs(self):
        run = next(job for job in super().jobs() if job.name.startswith("CIFAR-10"))
        sleep = "import time; time.sleep(99)"
        child = "import subprocess, sys; "
        child += f"print(subprocess.Popen([sys.executable, '-c', {sleep!r}]).pid, "
        child += f"flush=True); {sleep}"
        others = {"slow": (child, 0.03), "failing": ("import sys; sys.exit(3)", 1)}
        return [dataclasses.replace(run, backend=BACKEND, minutes=9)] + [
            Job(name, BACKEND, ("-c", code), self.runs / name, minutes)
            for name, (code, minutes) in others.items()
        ]


def test_jobs_run_one_after_the_other_and_are_resumed(tmp_path):
    out = tmp_path / "out"
    command = Jobs(minutes=20, out=out, runs=tmp_path / "runs", smoke=True)
    found = command.measure()
    run, slow, failing = found["jobs"].values()
    assert len(run["epochs"]) == 2 and run["result"] == run["epochs"][-1]
    assert slow["error"].startswith("the time limit") and "result" not in slow
    assert failing["error"].startswith("exit status 3")
    assert json.loads(command.json.read_text()) == found
    lines = (out / "gpu.log").read_text().splitlines()
    (child,) = (line for line in lines if line.isdigit())
    with contextlib.suppress(FileNotFoundError):  # or it is a zombie
        assert Path("/proc", child, "cmdline").read_bytes() == b""
    table = (out / "gpu.md").read_text()
    assert "CIFAR-10, plain, seed 0" in table and "- failing: exit status 3" in table

    again = dataclasses.replace(command, minutes=1e-9).measure()
    assert again["jobs"] == found["jobs"]  # nothing is repeated or lost


def test_a_time_limit_that_is_not_positive_is_refused(tmp_path):
    with pytest.raises(ValueError, match="minutes=0.0 must be above 0"):
        Gpu(minutes=0.0, out=tmp_path).measure()
