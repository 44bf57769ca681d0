"""`fastserve bench sweep`"""

import argparse
import dataclasses
import math
from pathlib import Path

from fastserve.cli.bench.serve import TEXT_DATASETS, read_text_dataset
from fastserve.cli.bench.target import add_target_arguments, load_options_of, target_of
from fastserve.cli.lazy import load
from fastserve.errors import InvalidArgumentError
from fastserve.workload import Workload, add_workload_arguments, workload_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Servers, workload, limit and rates."""
    add_target_arguments(parser)
    parser.add_argument(
        "--compare-url", metavar="URL", help="base URL of a second server; the two are measured in turns"
    )
    add_workload_arguments(parser, datasets=TEXT_DATASETS)
    group = parser.add_argument_group("Search")
    group.add_argument(
        "--slo",
        default="mean_normalized_ms:100",
        metavar="FIGURE:MS",
        help="a figure of `bench serve` and its limit, for example p95_ttft_ms:500 (default: mean_normalized_ms:100)",
    )
    group.add_argument(
        "--min-rate", type=float, default=0.25, metavar="X", help="lowest request rate [1/s] (default: 0.25)"
    )
    group.add_argument(
        "--max-rate", type=float, default=256.0, metavar="X", help="highest request rate [1/s] (default: 256)"
    )
    group.add_argument(
        "--resolution", type=float, default=1.1, metavar="X", help="ratio of neighbouring rates (default: 1.1)"
    )
    group.add_argument(
        "--min-requests", type=int, default=100, metavar="N", help="minimum number of requests per rate (default: 100)"
    )
    group.add_argument(
        "--seconds-per-rate",
        type=float,
        default=30.0,
        metavar="X",
        help="minimum duration of the arrivals at each rate [seconds] (default: 30)",
    )
    group.add_argument("--result-filename", type=Path, metavar="FILE", help="write all figures as JSON")
    group.add_argument("--plot", type=Path, metavar="FILE", help="write a plot as .png, .svg or .pdf")


def run(args: argparse.Namespace) -> int:
    """Search and print the rates."""
    for flag, unused in (("--request-rate", args.request_rate != math.inf), ("--num-prompts", args.num_prompts)):
        if unused or args.replay is not None:
            raise InvalidArgumentError(f"a sweep chooses rates and numbers of requests; leave {flag} and --replay out")
    if args.min_requests < 1:
        raise InvalidArgumentError(f"--min-requests must be at least 1, got {args.min_requests}")
    if args.plot is not None:
        load("fastserve.bench.plot:check_plot_path")(args.plot)
    plan = load("fastserve.bench.sweep:SweepPlan")(
        slo=load("fastserve.bench.sweep:Slo").parse(args.slo),
        grid=load("fastserve.bench.rate_search:RateGrid")(
            min_rate=args.min_rate, max_rate=args.max_rate, resolution=args.resolution
        ),
        min_requests=args.min_requests,
        seconds_per_rate=args.seconds_per_rate,
    )
    targets = {"base": target_of(args)}
    if args.compare_url is not None:
        # Another server has another name for the model; it is asked for it.
        targets["compare"] = dataclasses.replace(target_of(args, args.compare_url), model="")
    status = load("fastserve.bench.sweep:bench_sweep")(
        targets,
        plan,
        load_options_of(args),
        lambda rate, count: _workload(args, rate, count),
        num_warmups=args.num_warmups,
        result=args.result_filename,
        plot=args.plot,
    )
    return int(status)


def _workload(args: argparse.Namespace, rate: float, count: int) -> Workload:
    """The same requests at every rate, with other prompts: no prefix cache may answer what an earlier rate asked."""
    chosen = argparse.Namespace(**vars(args) | {"request_rate": rate, "num_prompts": count})
    workload = workload_from(chosen, read_dataset=read_text_dataset)
    return dataclasses.replace(workload, seed=args.seed + round(1e6 * rate))
