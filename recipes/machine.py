"""What a benchmark or a training ran on."""

import datetime
import math
import os
import platform
from pathlib import Path


def run_on():
    """Date, name of the processor, and its cores that this process may run on."""
    today = datetime.date.today().isoformat()
    return {"date": today, "cpu": _cpu(), "cores": _cores_to_run_on()}


def versions_of(result):
    """Lines of Markdown: the versions of what was measured; why others were not."""
    named = {}
    for title, versions in result["versions"].items():
        line = ", ".join(f"{name} {number}" for name, number in versions.items())
        named.setdefault(line, []).append(title)
    return [f"- {'; '.join(titles)}: {line}" for line, titles in named.items()] + [
        f"- {title}: skipped ({why})" for title, why in result["skipped"].items()
    ]


def cores():
    """How many this process may use.

    As `os.process_cpu_count` of Python 3.13, it takes the number from the environment
    variable `PYTHON_CPU_COUNT`, if that is set. A container has no more than its quota
    of processor time.
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
    """How many cores the control group of a container may use; `None` if all.

    A part of a core counts as one.

    Args:
        folder: where Linux has the control group's files, of version 2 or 1.
    """
    files = [folder / "cpu.max"]
    if not files[0].exists():
        files = [folder / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    try:
        time, period = " ".join(file.read_text() for file in files).split()
        return max(math.ceil(int(time) / int(period)), 1) if int(time) > 0 else None
    except (OSError, ValueError):  # there are none, or time is "max"
        return None


def allow_open_files() -> None:
    """Lets this process have as many files open as the system allows, at most 10,240.

    Linux lets a process have 1024, but raise that by itself. A worker of a feed takes
    about eight here. macOS does not allow more than 10,240.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
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
