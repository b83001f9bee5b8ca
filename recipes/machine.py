"""What a benchmark or a training ran on."""

import datetime
import os
import platform
from pathlib import Path


def run_on():
    """Date, name of the processor, and the cores that this process may use."""
    today = datetime.date.today().isoformat()
    return {"date": today, "cpu": _cpu(), "cores": cores()}


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
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
