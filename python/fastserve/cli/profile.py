"""`fastserve profile MODEL`: measure an engine on this machine, for `fastserve simulate --profile`, or to suggest its settings."""

import argparse
import sys

from fastserve.cli.flags import add_engine_flags, engine_config_of
from fastserve.cli.lazy import load
from fastserve.cli.simulate_report import advice
from fastserve.errors import InvalidArgumentError
from fastserve.workload import add_workload_arguments, workload_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, where to write, the flags of the engine, and those of a workload to suggest settings for."""
    parser.add_argument("--output", metavar="FILE", help="file to write the profile to; default: standard output")
    parser.add_argument(
        "--suggest",
        action="store_true",
        help="print scheduler settings for the workload, found by simulating it on the profile, instead of the profile",
    )
    add_engine_flags(parser)
    add_workload_arguments(parser, seed=False)


def run(args: argparse.Namespace) -> int:
    """Measure, and write or print the profile, or settings."""
    if not args.suggest and (args.dataset_path or args.dataset_name or args.replay):
        raise InvalidArgumentError("the flags of a workload go with --suggest")
    config = engine_config_of(args)
    workload = workload_from(args) if args.suggest else None
    profile = load("fastserve.sim.measure:measure_profile")(config, _say)
    if args.output is not None:
        profile.write(args.output)
    if workload is not None:
        deployment = load("fastserve.sim:profile_deployment")(profile)
        print(advice(load("fastserve.sim:suggest")(workload, deployment, config.scheduler, progress=_say_trial)))
    elif args.output is None:
        print(profile.to_json())
    return 0


def _say(stage: str, done: int, total: int) -> None:
    if done == 0 and sys.stderr.isatty():
        print(f"fastserve profile: {stage} ...", file=sys.stderr)


def _say_trial(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"fastserve profile: simulation {done} of {total}", file=sys.stderr)
