"""Results as JSON: what ran, on which commit and machine, and every raw sample."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def describe_host() -> dict[str, object]:
    """Say what machine this is: processor, usable cores, kernel, Python."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def git_sha() -> str:
    """Return the commit of the working directory, with "-dirty" behind it when files differ; "unknown" where git cannot say."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def write_json(path: Path, *, config: Mapping[str, object], results: Sequence[Mapping[str, object]]) -> None:
    """Write `{git_sha, host, config, results}` to `path`."""
    document = {"git_sha": git_sha(), "host": describe_host(), "config": dict(config), "results": list(results)}
    path.write_text(json.dumps(document, indent=1) + "\n")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
