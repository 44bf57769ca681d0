"""`fastserve profile MODEL`: measure an engine on this machine, for `fastserve simulate --profile`."""

import argparse
import sys

from fastserve.cli.flags import add_engine_flags, engine_config_of
from fastserve.cli.lazy import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, where to write, and the flags of the engine."""
    parser.add_argument("--output", metavar="FILE", help="write the profile there; default: standard output")
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and write or print the profile."""
    profile = load("fastserve.sim:measure_profile")(engine_config_of(args), _say)
    if args.output is None:
        print(profile.to_json())
    else:
        profile.write(args.output)
    return 0


def _say(stage: str, done: int, total: int) -> None:
    if done == 0 and sys.stderr.isatty():
        print(f"fastserve profile: {stage} ...", file=sys.stderr)
