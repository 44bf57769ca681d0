"""`fastserve bench latency MODEL`"""

import argparse

from fastserve.cli.bench.offline import add_output_argument, open_llm, save
from fastserve.cli.flags import add_engine_flags
from fastserve.cli.lazy import load
from fastserve.errors import InvalidArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The batch, and the flags of the engine."""
    group = parser.add_argument_group("Batch")
    group.add_argument(
        "--input-len", type=int, default=32, metavar="N", help="length of each prompt [tokens] (default: 32)"
    )
    group.add_argument(
        "--output-len", type=int, default=128, metavar="N", help="length of each output [tokens] (default: 128)"
    )
    group.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="number of requests in the batch (default: 8)"
    )
    group.add_argument(
        "--num-iters-warmup",
        type=int,
        default=10,
        metavar="N",
        help="number of warm-up runs, which are not measured (default: 10)",
    )
    group.add_argument("--num-iters", type=int, default=30, metavar="N", help="number of measured runs (default: 30)")
    add_output_argument(group)
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Print mean and percentiles of the batch's latency."""
    for name in ("input_len", "output_len", "batch_size", "num_iters"):
        if getattr(args, name) < 1:
            raise InvalidArgumentError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    batch = load("fastserve.bench.offline:Batch")(
        input_len=args.input_len, output_len=args.output_len, batch_size=args.batch_size
    )
    with open_llm(args) as llm:
        figures = load("fastserve.bench.offline:measure_latency")(
            llm, batch, num_warmups=max(args.num_iters_warmup, 0), num_iters=args.num_iters
        )
    print(f"mean latency {figures['avg_latency']:.4f} s")
    for percentile, seconds in figures["percentiles"].items():
        print(f"{percentile:>3} %  {seconds:.4f} s")
    save(args, figures)
    return 0
