"""The machine that a benchmark or training run uses."""

import datetime
import math
import os
import platform
from pathlib import Path


def machine_info():
    """Returns the date, the processor's name and the number of available cores."""
    today = datetime.date.today().isoformat()
    return {"date": today, "cpu": _cpu(), "cores": _cores_to_run_on()}


def format_versions(result):
    """Lists the versions of measured packages, and why others were skipped, as lines
    of Markdown."""
    named = {}
    for title, versions in result["versions"].items():
        line = ", ".join(f"{name} {number}" for name, number in versions.items())
        named.setdefault(line, []).append(title)
    return [f"- {'; '.join(titles)}: {line}" for line, titles in named.items()] + [
        f"- {title}: skipped ({why})" for title, why in result["skipped"].items()
    ]


def cores():
    """Returns the number of cores that this process may use.

    The environment variable `PYTHON_CPU_COUNT` overrides it, as it does
    `os.process_cpu_count` of Python 3.13. The CPU quota of a container limits it.
    """
    said = os.environ.get("PYTHON_CPU_COUNT", "")
    return max(int(said), 1) if said.isdigit() else _cores_to_run_on()


def _cores_to_run_on():
    if hasattr(os, "sched_getaffinity"):
        number = len(os.sched_getaffinity(0))
    else:
        number = os.cpu_count() or 1
    return min(number, quota() or number)


def quota(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Returns a container's CPU quota in cores, rounded up; `None` if unlimited.

    Args:
        folder: folder of the control group's files, version 2 or 1.
    """
    files = [folder / "cpu.max"]
    if not files[0].exists():
        files = [folder / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    try:
        time, period = " ".join(file.read_text() for file in files).split()
        return max(math.ceil(int(time) / int(period)), 1) if int(time) > 0 else None
    except (OSError, ValueError):  # no such files, or the time is "max"
        return None


def allow_open_files() -> None:
    """Raises this process's limit of open files to the hard limit, at most 10,240.

    Linux's default soft limit is 1024, and each worker of a feed takes about eight
    files in this process. macOS allows at most 10,240.
    """
    try:
        import resource
    except ImportError:  # Windows does not limit open files
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 10_240 if hard == resource.RLIM_INFINITY else min(hard, 10_240)
    if resource.RLIM_INFINITY != soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _cpu():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
