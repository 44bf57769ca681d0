"""The flags of a workload, the same for every command that takes one; named as `vllm bench serve` names them."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastserve.errors import InvalidArgumentError
from fastserve.workload.build import Arrivals, draw_conversations, draw_priorities, draw_requests, keep_short, replay
from fastserve.workload.lengths import lognormal_lengths, uniform_lengths
from fastserve.workload.ramp import STRATEGIES, RampUp
from fastserve.workload.trace import Trace, lengths_alone, read_trace
from fastserve.workload.workload import Workload

DEFAULT_NUM_PROMPTS = 1000

_DRAWN = ("random", "lognormal")


def add_workload_arguments(
    parser: argparse.ArgumentParser, *, arrivals: bool = True, seed: bool = True, datasets: Sequence[str] = ()
) -> None:
    """Add the flags that `workload_from` reads.

    Args:
        parser: of the command.
        arrivals: with the flags that say when requests arrive; without, all come at once.
        seed: with --seed; without, the command has such a flag of its own.
        datasets: kinds of files besides traces, for --dataset-name; the command brings their reader.
    """
    lengths = parser.add_argument_group("Workload: what the requests are")
    lengths.add_argument(
        "--dataset-name",
        choices=(*_DRAWN, "trace", *datasets),
        help="where lengths come from: uniform (random) or log-normal distribution, or a file (default: trace if a file is given, else random)",
    )
    lengths.add_argument(
        "--dataset-path", "--trace", metavar="FILE", help="CSV file of request lengths (docs/workloads.md)"
    )
    lengths.add_argument(
        "--num-prompts",
        type=int,
        metavar="N",
        help=f"number of requests (default: {DEFAULT_NUM_PROMPTS}; with --replay: all)",
    )
    lengths.add_argument(
        "--random-input-len", type=float, default=1024, metavar="X", help="mean prompt length [tokens] (default: 1024)"
    )
    lengths.add_argument(
        "--random-output-len", type=float, default=128, metavar="X", help="mean output length [tokens] (default: 128)"
    )
    lengths.add_argument(
        "--random-range-ratio",
        type=float,
        default=0.0,
        metavar="X",
        help="relative half-width of the uniform distribution of lengths (default: 0 = all the same)",
    )
    lengths.add_argument(
        "--lognormal-sigma",
        type=float,
        default=1.0,
        metavar="X",
        help="standard deviation of the logarithm of lengths (default: 1.0)",
    )
    lengths.add_argument("--max-input-len", type=int, metavar="N", help="drop requests with a longer prompt [tokens]")
    lengths.add_argument(
        "--max-total-len", type=int, metavar="N", help="drop requests with a longer prompt + output [tokens]"
    )
    lengths.add_argument(
        "--length-scale",
        type=float,
        default=1.0,
        metavar="X",
        help="multiply all lengths by this factor (default: 1.0)",
    )
    lengths.add_argument(
        "--multi-turn",
        action="store_true",
        help="keep the conversations of a trace together: later turns share the prefix of earlier ones",
    )
    lengths.add_argument(
        "--priority-shares", metavar="P:X,...", help='share of each priority, for example "0:0.9,1:0.1"'
    )
    if seed:
        lengths.add_argument(
            "--seed", type=int, default=0, metavar="N", help="seed of everything that is random (default: 0)"
        )
    if arrivals:
        _add_arrival_arguments(parser.add_argument_group("Workload: when they arrive"))
    else:
        parser.set_defaults(replay=None, request_rate=float("inf"), burstiness=1.0, think_time_s=0.0)
        parser.set_defaults(ramp_up_strategy=None, ramp_up_start_rps=None, ramp_up_end_rps=None)


def workload_from(
    args: argparse.Namespace, *, read_dataset: Callable[[argparse.Namespace], Trace] | None = None
) -> Workload:
    """Return the workload that the flags describe.

    Args:
        args: parsed flags of `add_workload_arguments`.
        read_dataset: reads the kinds of files that the command added.
    Raises:
        InvalidArgumentError: a value is out of range, flags contradict each other, or the trace is bad.
    """
    if args.num_prompts is not None and args.num_prompts < 1:
        raise InvalidArgumentError(f"--num-prompts must be at least 1, got {args.num_prompts}")
    if args.seed < 0:
        raise InvalidArgumentError(f"--seed must be at least 0, got {args.seed}")
    workload = _replayed(args) if args.replay is not None else _drawn(args, read_dataset)
    if args.length_scale != 1.0:
        workload = workload.scaled(args.length_scale)
    if args.priority_shares is not None:
        shares = parse_priority_shares(args.priority_shares)
        workload = replace(workload, priority=draw_priorities(shares, len(workload), args.seed))
    return workload


def has_synthetic_lengths(args: argparse.Namespace) -> bool:
    """Whether the lengths of the requests are drawn from a distribution instead of read from a file."""
    return args.replay is None and _source(args) in _DRAWN


def parse_priority_shares(text: str) -> dict[int, float]:
    """ "0:0.9,1:0.1" as a mapping.

    Raises:
        InvalidArgumentError: it has another form.
    """
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return {int(priority): float(share) for priority, share in pairs}
    except ValueError:
        rule = "--priority-shares must be priority:share pairs such as 0:0.9,1:0.1"
        raise InvalidArgumentError(f"{rule}, got {text!r}") from None


def _add_arrival_arguments(arrivals: argparse._ArgumentGroup) -> None:
    arrivals.add_argument("--replay", metavar="FILE", help="requests and arrival times of a CSV, in its order")
    arrivals.add_argument(
        "--request-rate",
        type=float,
        default=float("inf"),
        metavar="X",
        help="requests per second (default: inf: all at once)",
    )
    arrivals.add_argument(
        "--burstiness",
        type=float,
        default=1.0,
        metavar="X",
        help="shape of the gaps: 1 = Poisson, below bursts, above more even, inf = even (default: 1.0)",
    )
    arrivals.add_argument(
        "--ramp-up-strategy", choices=STRATEGIES, help="let the rate rise over the run, instead of --request-rate"
    )
    for end, text in (("start", "first"), ("end", "last")):
        arrivals.add_argument(
            f"--ramp-up-{end}-rps", type=float, metavar="X", help=f"rate of the {text} request [requests per second]"
        )
    arrivals.add_argument(
        "--think-time-s",
        type=float,
        default=30.0,
        metavar="X",
        help="mean time between two turns of a conversation [seconds] (default: 30)",
    )
    arrivals.add_argument(
        "--replay-speed", type=float, default=1.0, metavar="X", help="factor on the pace of --replay (default: 1.0)"
    )


def _replayed(args: argparse.Namespace) -> Workload:
    given = {"--dataset-path": args.dataset_path, "--dataset-name": args.dataset_name}
    given["--multi-turn"] = args.multi_turn or None
    given["--request-rate"] = None if np.isinf(args.request_rate) else args.request_rate
    given["--ramp-up-strategy"] = args.ramp_up_strategy
    for flag, value in given.items():
        if value is not None:
            raise InvalidArgumentError(f"--replay keeps the requests and times of its file; leave {flag} out")
    trace = _short(read_trace(args.replay), args)
    return replay(trace, name=Path(args.replay).stem, seed=args.seed, count=args.num_prompts, speed=args.replay_speed)


def _drawn(args: argparse.Namespace, read_dataset: Callable[[argparse.Namespace], Trace] | None) -> Workload:
    source = _source(args)
    if (source not in _DRAWN) != (args.dataset_path is not None):
        raise InvalidArgumentError("--dataset-path goes with a --dataset-name that is a file, and that with a path")
    count = args.num_prompts or DEFAULT_NUM_PROMPTS
    arrivals = Arrivals(
        rate=args.request_rate, burstiness=args.burstiness, think_time_s=args.think_time_s, ramp_up=_ramp_up(args)
    )
    name = source if args.dataset_path is None else Path(args.dataset_path).stem
    trace = _synthetic(args, source, count) if source in _DRAWN else _read(args, source, read_dataset)
    trace = _short(trace, args)
    draw = draw_conversations if args.multi_turn else draw_requests
    return draw(trace, count, arrivals, name=name, seed=args.seed)


def _read(args: argparse.Namespace, source: str, read_dataset: Callable[[argparse.Namespace], Trace] | None) -> Trace:
    if source == "trace":
        return read_trace(args.dataset_path)
    assert read_dataset is not None, "a command that adds kinds of files also reads them"
    return read_dataset(args)


def _source(args: argparse.Namespace) -> str:
    return args.dataset_name or ("random" if args.dataset_path is None else "trace")


def _ramp_up(args: argparse.Namespace) -> RampUp | None:
    ends = (args.ramp_up_start_rps, args.ramp_up_end_rps)
    if args.ramp_up_strategy is None and ends == (None, None):
        return None
    if args.ramp_up_strategy is None or None in ends:
        raise InvalidArgumentError("--ramp-up-strategy, --ramp-up-start-rps and --ramp-up-end-rps go together")
    if not np.isinf(args.request_rate):
        raise InvalidArgumentError("a ramp-up says the rate of requests; leave --request-rate and sweeps of it out")
    return RampUp(strategy=args.ramp_up_strategy, start_rps=ends[0], end_rps=ends[1])


def _synthetic(args: argparse.Namespace, source: str, count: int) -> Trace:
    if args.multi_turn:
        raise InvalidArgumentError("--multi-turn needs a trace with conversations; give one with --dataset-path")
    rng = np.random.default_rng((args.seed, 0))
    means = (args.random_input_len, args.random_output_len)
    if source == "random":
        ratio = args.random_range_ratio
        return lengths_alone(*(uniform_lengths(round(mean), count, rng, range_ratio=ratio) for mean in means))
    return lengths_alone(*(lognormal_lengths(mean, count, rng, sigma=args.lognormal_sigma) for mean in means))


def _short(trace: Trace, args: argparse.Namespace) -> Trace:
    if args.max_input_len is None and args.max_total_len is None:
        return trace
    return keep_short(trace, max_prompt_tokens=args.max_input_len, max_total_tokens=args.max_total_len)
