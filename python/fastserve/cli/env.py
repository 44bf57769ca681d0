"""`fastserve env`: what this installation and this machine are; for bug reports."""

import argparse
import json
import platform

from fastserve import __version__
from fastserve.cli.lazy import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The form of the output."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the facts."""
    facts = _facts()
    if args.json:
        print(json.dumps(facts))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        for i, row in enumerate(value if isinstance(value, list) else [value]):
            print(f"{name if i == 0 else '':<{width}}  {row}")
    return 0


def _facts() -> dict[str, str | int | list[str]]:
    core = load("fastserve.worker.machine:describe_core")()
    gib = 1 << 30
    devices = [
        f"{d.name}, compute capability {d.compute_capability[0]}.{d.compute_capability[1]}, {d.memory_bytes / gib:.1f} GiB"
        for d in core.cuda_devices
    ]
    return {
        "fastserve": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": _torch_version(),
        "cpu isa": core.cpu_isa,
        "threads": core.num_threads,
        "cuda build": f"{core.cuda_build_version} for {core.cuda_architectures}" if core.cuda_compiled else "none",
        "cuda devices": devices or ["none"],
    }


def _torch_version() -> str:
    try:
        return str(load("torch:__version__"))
    except ModuleNotFoundError:
        return "not installed"
