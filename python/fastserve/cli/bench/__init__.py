"""`fastserve bench serve|latency|throughput|sweep`: each a module of this package."""

import argparse

from fastserve.cli.bench import latency, serve, sweep, throughput

BENCHMARKS = {
    "serve": (serve, "send a workload to a running server and measure its answers"),
    "latency": (latency, "time one batch, offline"),
    "throughput": (throughput, "time many requests, offline"),
    "sweep": (sweep, "find the request rate that a server, or two side by side, can take within a limit"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command per benchmark."""
    benchmarks = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)
    for name, (module, text) in BENCHMARKS.items():
        module.add_arguments(benchmarks.add_parser(name, help=text, description=text))


def run(args: argparse.Namespace) -> int:
    """Run the chosen benchmark; returns its exit code."""
    return int(BENCHMARKS[args.benchmark][0].run(args))
