"""`fastserve simulate MODEL --device NAME`: a workload through the scheduler on a virtual clock."""

import argparse
import contextlib
import importlib
import json
import sys
import typing
from collections.abc import Iterator
from dataclasses import asdict, fields, replace

from fastserve.cli.flags import add_config_flags, config_of
from fastserve.cli.lazy import load
from fastserve.cli.simulate_report import advice, comparison, explanation, report
from fastserve.config import LEARNING, CacheConfig, Policy, SchedulerConfig
from fastserve.errors import InvalidArgumentError
from fastserve.workload import Workload, add_workload_arguments, workload_from

POLICIES = typing.get_args(Policy)
OBJECTIVES = ("normalized_latency_s", "e2e_s", "ttft_s", "tpot_s")  # means that --suggest can make small
ENDINGS = ("known", "max-tokens", "stop-token", "stop-string")
# Columns of the request table by the metrics of `bench serve`.
GOODPUT_COLUMNS = {
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "pause": "longest_pause_s",
    "e2el": "e2e_s",
    "normalized": "normalized_latency_s",
}
_NOT_SIMULATED = ("kv_gib", "kv_canary", "allow_pageable_host_kv", "enable_prefix_caching")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What runs on what, which runs to make, what to write, and the flags of workload, KV memory and scheduler."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="opt-13b, llama-3-8b, ..., or a folder with a config.json"
    )
    _add_hardware(parser.add_argument_group("What it runs on"))
    _add_engine_costs(parser.add_argument_group("What the engine adds to the iterations of its devices"))
    _add_runs(parser.add_argument_group("Which runs"))
    add_workload_arguments(parser)
    add_config_flags(parser, CacheConfig, skip=_NOT_SIMULATED)
    add_config_flags(parser, SchedulerConfig, skip=("scheduling_policy", "max_num_queued_reqs"))


def run(args: argparse.Namespace) -> int:
    """Simulate and print a summary, or one line per run when there are several."""
    policies, rates = _policies(args), _rates(args)
    several = len(policies) * len(rates) > 1
    for flag, value in (("--requests-csv", args.requests_csv), ("--timeline", args.timeline)):
        if several and value is not None:
            raise InvalidArgumentError(f"{flag} is written by a single run; leave out --compare and --sweep-rate")
    deployment = _deployment(args)
    if args.explain_policy:
        return _explain(args, deployment, policies, rates[0])
    if args.suggest is not None:
        return _suggest(args, deployment, policies, rates)
    results = []
    for rate in rates:
        workload = _workload(args, rate)
        for policy in policies:
            label = policy if rate is None else f"{policy} at {rate:g}/s"
            results.append((rate, _simulate(args, workload, deployment, policy, label, endings=_endings(args))))
    if args.requests_csv is not None:
        results[0][1].requests.write_csv(args.requests_csv)
    if args.json:
        rows = [({} if rate is None else {"request_rate": rate}) | result.to_dict() for rate, result in results]
        print(json.dumps(rows if several else rows[0]))
    else:
        print(comparison(results) if several else report(results[0][1]))
    return 0


def _add_hardware(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device", metavar="NAME", default="a100-80gb", help="a100-80gb, h100, h200, l4 or cpu (default: a100-80gb)"
    )
    group.add_argument(
        "--tensor-parallel-size", type=int, default=1, metavar="N", help="devices that share each layer (default: 1)"
    )
    group.add_argument(
        "--pipeline-parallel-size", type=int, default=1, metavar="N", help="stages of layers (default: 1)"
    )
    group.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="data type of weights and KV (default: auto)",
    )
    group.add_argument(
        "--max-model-len", type=int, metavar="TOKENS", help="longest prompt + output; default: the model's own limit"
    )
    group.add_argument(
        "--layer-overhead-us",
        type=float,
        metavar="X",
        help="fixed time per layer [microseconds]; default: the device's",
    )
    group.add_argument(
        "--profile",
        metavar="FILE",
        help="file of measured costs, written by fastserve profile; replaces MODEL and --device",
    )


def _add_engine_costs(group: argparse._ArgumentGroup) -> None:
    for name, text in (
        ("iteration", "time between two iterations while the devices wait for the engine"),
        ("device", "additional such time for each device but the first"),
        ("row", "additional time of an iteration per decoding row"),
    ):
        group.add_argument(
            f"--{name}-overhead-us", type=float, default=0.0, metavar="X", help=f"{text} [microseconds] (default: 0)"
        )
    group.add_argument(
        "--separate-prefills",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="run the prefills of an iteration before its decodes instead of in one forward pass (default: off)",
    )


def _add_runs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--scheduling-policy",
        choices=POLICIES,
        help="order in which requests run; srpt knows their lengths (default: slo if an objective is given, else learned)",
    )
    group.add_argument("--compare", metavar="P,P,...", help="run each of these policies on the same workload")
    group.add_argument(
        "--sweep-rate", metavar="X,X,...", help="run at each of these request rates [requests per second]"
    )
    group.add_argument(
        "--endings",
        choices=ENDINGS,
        help="what ends requests: known = max_tokens with ignore_eos, so that lengths are known; max-tokens = a limit that cuts them"
        " off; stop-token or stop-string (default: stop-token if learned or slo is among the policies, else known)",
    )
    group.add_argument(
        "--goodput",
        nargs="+",
        metavar="M:MS",
        help="limits that a request must keep to count as good: ttft:1000 tpot:50 [milliseconds]; default: the objectives",
    )
    group.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        help="share the KV of common prefixes; default: on if the workload has conversations",
    )
    group.add_argument(
        "--suggest",
        choices=OBJECTIVES,
        nargs="?",
        const=OBJECTIVES[0],
        help="search for the starvation limit, quantum ratio and reserve with the lowest mean of this quantity (default: normalized_latency_s)",
    )
    group.add_argument(
        "--explain-policy", action="store_true", help="show the levels of the policy instead of a summary"
    )
    group.add_argument("--requests-csv", metavar="FILE", help="write one line per request")
    group.add_argument("--timeline", metavar="FILE", help="write iterations, levels and copies for ui.perfetto.dev")
    group.add_argument("--json", action="store_true", help="print JSON")


def _policies(args: argparse.Namespace) -> list[str]:
    if args.compare is None:
        has_objective = args.ttft_slo_s is not None or args.tpot_slo_s is not None
        return [args.scheduling_policy or ("slo" if has_objective else "learned")]
    policies = [name.strip() for name in args.compare.split(",")]
    for name in policies:
        if name not in POLICIES:
            raise InvalidArgumentError(f"--compare must name policies out of {', '.join(POLICIES)}, got {name!r}")
    return policies


def _rates(args: argparse.Namespace) -> list[float | None]:
    if args.sweep_rate is None:
        return [None]
    if args.replay is not None:
        raise InvalidArgumentError("--replay keeps the times of its file; leave --sweep-rate out")
    try:
        return [float(rate) for rate in args.sweep_rate.split(",")]
    except ValueError:
        raise InvalidArgumentError(f"--sweep-rate must be numbers such as 1,2,4, got {args.sweep_rate!r}") from None


def _workload(args: argparse.Namespace, rate: float | None) -> Workload:
    if rate is None:
        return workload_from(args)
    return workload_from(argparse.Namespace(**(vars(args) | {"request_rate": rate})))


def _endings(args: argparse.Namespace) -> str:
    return args.endings or ("known" if set(LEARNING).isdisjoint(_policies(args)) else "stop-token")


def _goodput_s(args: argparse.Namespace) -> dict[str, float] | None:
    """Limits by columns of the request table, seconds."""
    if args.goodput is None:
        objectives_s = {"ttft_s": args.ttft_slo_s, "tpot_s": args.tpot_slo_s}
        return {name: limit_s for name, limit_s in objectives_s.items() if limit_s is not None} or None
    limits_ms = load("fastserve.bench.metrics:parse_limits")(args.goodput)
    if unknown := set(limits_ms) - set(GOODPUT_COLUMNS):
        known = ", ".join(GOODPUT_COLUMNS)
        raise InvalidArgumentError(f"--goodput of a simulation takes {known}, got {', '.join(sorted(unknown))}")
    return {GOODPUT_COLUMNS[metric]: limit_ms / 1e3 for metric, limit_ms in limits_ms.items()}


def _deployment(args: argparse.Namespace) -> typing.Any:
    sim = importlib.import_module("fastserve.sim")
    costs = sim.EngineCosts(
        iteration_s=args.iteration_overhead_us * 1e-6,
        device_s=args.device_overhead_us * 1e-6,
        row_s=args.row_overhead_us * 1e-6,
        separate_prefills=args.separate_prefills,
    )
    return sim.with_engine_costs(_devices(args, sim), costs)


def _devices(args: argparse.Namespace, sim: typing.Any) -> typing.Any:
    cache = CacheConfig(**{f.name: getattr(args, f.name) for f in fields(CacheConfig) if f.name not in _NOT_SIMULATED})
    if args.profile is not None:
        if args.model is not None:
            raise InvalidArgumentError("--profile says what was measured; leave MODEL out")
        return sim.profile_deployment(args.profile, cache=cache, max_model_len=args.max_model_len)
    if args.model is None:
        raise InvalidArgumentError(f"MODEL must be given: one of {', '.join(sim.MODELS)}, or a folder")
    device = sim.find_device(args.device)
    if args.layer_overhead_us is not None:
        device = replace(device, layer_overhead_s=args.layer_overhead_us * 1e-6)
    return sim.roofline_deployment(
        sim.find_model(args.model, args.dtype),
        device,
        parallelism=sim.Parallelism(tensor=args.tensor_parallel_size, pipeline=args.pipeline_parallel_size),
        cache=cache,
        max_model_len=args.max_model_len,
    )


def _suggest(args: argparse.Namespace, deployment: object, policies: list[str], rates: list[float | None]) -> int:
    if len(policies) * len(rates) > 1:
        raise InvalidArgumentError("--suggest works on one policy and one rate; leave out --compare and --sweep-rate")
    with _progress("simulations", 0) as progress:
        found = load("fastserve.sim:suggest")(
            _workload(args, rates[0]),
            deployment,
            _scheduler(args, policies[0]),
            objective=args.suggest,
            progress=progress,
        )
    print(json.dumps(found.to_dict()) if args.json else advice(found))
    return 0


def _explain(args: argparse.Namespace, deployment: object, policies: list[str], rate: float | None) -> int:
    """The levels; for `learned` also what it makes of the workload."""
    explain = load("fastserve.sim:explain_policy")
    levels = {policy: explain(deployment, _scheduler(args, policy)) for policy in policies}
    classes = ()
    for policy in LEARNING:
        if policy in policies:
            result = _simulate(args, _workload(args, rate), deployment, policy, policy, endings=_endings(args))
            classes = result.length_classes
    if args.json:
        rows = {policy: [level.to_dict() for level in rows] for policy, rows in levels.items()}
        print(json.dumps(rows | ({"length_classes": [asdict(found) for found in classes]} if classes else {})))
    else:
        print("\n\n".join(explanation(policy, rows, classes) for policy, rows in levels.items()))
    return 0


def _scheduler(args: argparse.Namespace, policy: str) -> SchedulerConfig:
    values = vars(args) | {"scheduling_policy": policy, "max_num_queued_reqs": 1}
    if args.compare is not None and policy != "slo":  # the others know no objectives
        values |= {"ttft_slo_s": None, "tpot_slo_s": None}
    return config_of(SchedulerConfig, argparse.Namespace(**values))


def _simulate(
    args: argparse.Namespace, workload: Workload, deployment: object, policy: str, label: str, *, endings: str
) -> typing.Any:
    with _progress(label, len(workload)) as progress, _timeline(args) as timeline:
        return load("fastserve.sim:simulate")(
            workload,
            deployment,
            _scheduler(args, policy),
            enable_prefix_caching=args.enable_prefix_caching,
            endings=endings,
            objectives_s=_goodput_s(args),
            progress=progress,
            timeline=timeline,
        )


@contextlib.contextmanager
def _progress(label: str, total: int) -> Iterator[typing.Callable[[int, int], None]]:
    try:
        tqdm = load("tqdm:tqdm")
    except ModuleNotFoundError:  # a bar is no reason to install anything
        yield lambda done, of: None
        return
    with tqdm(total=total, desc=label, disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:

        def show(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield show


def _timeline(args: argparse.Namespace) -> typing.Any:
    return contextlib.nullcontext() if args.timeline is None else load("fastserve.sim:Timeline")(args.timeline)
