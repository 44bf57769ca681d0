"""`fastserve bench throughput MODEL`"""

import argparse
import sys

from fastserve.cli.bench.offline import add_output_argument, open_llm, save
from fastserve.cli.flags import add_engine_flags
from fastserve.cli.lazy import load
from fastserve.workload import add_workload_arguments, workload_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The lengths of the requests, and the flags of the engine."""
    add_workload_arguments(parser, arrivals=False, seed=False)
    add_output_argument(parser)
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Print requests and tokens per second."""
    workload = workload_from(args)
    with open_llm(args) as llm:
        figures = load("fastserve.bench.offline:measure_throughput")(llm, workload, progress=sys.stderr.isatty())
    print(
        f"{figures['num_requests']} requests in {figures['elapsed_time']:.2f} s:"
        f" {figures['requests_per_second']:.2f} requests/s, {figures['tokens_per_second']:.1f} tokens/s in all,"
        f" {figures['output_tokens_per_second']:.1f} output tokens/s"
    )
    save(args, figures)
    return 0
