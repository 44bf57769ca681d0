"""`fastserve bench serve`"""

import argparse
import time
from pathlib import Path
from typing import Any

from fastserve.cli.bench.target import add_target_arguments, load_options_of, target_of
from fastserve.cli.lazy import load
from fastserve.errors import InvalidArgumentError
from fastserve.workload import Trace, add_workload_arguments, workload_from

ALL_METRICS = "ttft,tpot,itl,pause,e2el,normalized"
TEXT_DATASETS = ("sharegpt", "custom")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Server, workload and report."""
    add_target_arguments(parser)
    add_workload_arguments(parser, datasets=TEXT_DATASETS)
    parser.add_argument("--backend", default="openai", choices=("openai",), help="kind of API (default: openai)")
    parser.add_argument(
        "--max-concurrency", type=int, metavar="N", help="maximum number of requests in flight (default: no limit)"
    )
    group = parser.add_argument_group("Report")
    group.add_argument(
        "--percentile-metrics", default=ALL_METRICS, metavar="M,...", help=f"metrics to report (default: {ALL_METRICS})"
    )
    group.add_argument(
        "--metric-percentiles", default="95,99", metavar="X,...", help="percentiles of each metric (default: 95,99)"
    )
    group.add_argument(
        "--goodput",
        nargs="+",
        metavar="M:MS",
        help="limits that a request must keep to count as good: ttft:200 tpot:50 [milliseconds]",
    )
    group.add_argument("--label", metavar="TEXT", help="first part of the result file's name (default: the backend)")
    group.add_argument("--save-result", action="store_true", help="write the figures as JSON")
    group.add_argument("--save-detailed", action="store_true", help="also write the figures of every request")
    group.add_argument(
        "--result-dir",
        default=".",
        metavar="FOLDER",
        help="folder of the result file, created if missing (default: the current folder)",
    )
    group.add_argument(
        "--result-filename",
        metavar="FILE",
        help="name of the result file (default: label, rate, concurrency, model and date)",
    )
    group.add_argument(
        "--metadata", nargs="*", default=[], metavar="KEY=VALUE", help="additional entries of the result file"
    )
    group.add_argument("--plot", type=Path, metavar="FILE", help="write a plot as .png, .svg or .pdf")


def run(args: argparse.Namespace) -> int:
    """Send the workload; 1 when a request failed."""
    report = _report_of(args)
    target = target_of(args)
    options = load_options_of(args, max_concurrency=args.max_concurrency)
    workload = workload_from(args, read_dataset=read_text_dataset)
    bench = load("fastserve.bench.serve:bench_serve")
    return int(bench(target, workload, options, report, num_warmups=args.num_warmups))


def read_text_dataset(args: argparse.Namespace) -> Trace:
    """The prompts of a file of texts, tokenized."""
    if args.tokenizer is None:
        raise InvalidArgumentError(f"--dataset-name {args.dataset_name} needs --tokenizer to count tokens")
    read = load(f"fastserve.bench.text_dataset:read_{args.dataset_name}")
    tokenizer = load("fastserve.bench.text_dataset:open_tokenizer")(args.tokenizer)
    trace: Trace = read(Path(args.dataset_path), tokenizer, round(args.random_output_len))
    return trace


def parse_percentiles(text: str) -> tuple[float, ...]:
    """ "50,99" as numbers.

    Raises:
        InvalidArgumentError: one is not in [0, 100].
    """
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 <= value <= 100 for value in values):
        raise InvalidArgumentError(f"--metric-percentiles must be numbers between 0 and 100, got {text!r}")
    return values


def _report_of(args: argparse.Namespace) -> Any:
    metrics = tuple(args.percentile_metrics.split(","))
    known = load("fastserve.bench.metrics:METRICS")
    if unknown := set(metrics) - set(known):
        raise InvalidArgumentError(f"--percentile-metrics must be of {', '.join(known)}, got {', '.join(unknown)}")
    if args.plot is not None:
        load("fastserve.bench.plot:check_plot_path")(args.plot)
    return load("fastserve.bench.serve:ServeReport")(
        metrics=metrics,
        percentiles=parse_percentiles(args.metric_percentiles),
        goodput_ms=None if args.goodput is None else load("fastserve.bench.metrics:parse_limits")(args.goodput),
        result=_result_path(args),
        detail=args.save_detailed,
        plot=args.plot,
        facts=_facts(args),
    )


def _result_path(args: argparse.Namespace) -> Path | None:
    if not (args.save_result or args.save_detailed or args.result_filename):
        return None
    folder = Path(args.result_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(f"--result-dir must be a folder, or a place for one: {error}") from None
    model = (args.model or "model").rpartition("/")[2]
    slots = "" if args.max_concurrency is None else f"-concurrency{args.max_concurrency}"
    date = time.strftime("%Y%m%d-%H%M%S")
    rate = f"{args.request_rate}qps"
    if args.ramp_up_strategy is not None:
        rate = f"ramp-up-{args.ramp_up_strategy}-{args.ramp_up_start_rps}qps-{args.ramp_up_end_rps}qps"
    name = f"{args.label or args.backend}-{rate}{slots}-{model}-{date}.json"
    return folder / (args.result_filename or name)


def _facts(args: argparse.Namespace) -> dict[str, object]:
    facts: dict[str, object] = {
        "endpoint_type": args.backend,
        "backend": args.backend,
        "label": args.label,
        "tokenizer_id": args.tokenizer,
        "request_rate": args.request_rate if args.request_rate != float("inf") else "inf",
        "burstiness": args.burstiness,
        "max_concurrency": args.max_concurrency,
        "seed": args.seed,
    }
    if args.ramp_up_strategy is not None:
        for name in ("ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps"):
            facts[name] = getattr(args, name)
    for word in args.metadata:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise InvalidArgumentError(f"--metadata must be KEY=VALUE, got {word!r}")
        facts[key] = value
    return facts
