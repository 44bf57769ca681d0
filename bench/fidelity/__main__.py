"""The same requests through the CPU engine in real time and through the simulator: `python -m bench.fidelity --trace FILE`.

Each run of the engine is simulated three times: with the costs of its own iterations (`fitted`: five numbers, least squares),
with these times what each iteration in turn deviated from them (`machine`: the speed of a shared machine changes by a fifth
within seconds, which no five numbers tell), and with the costs that `fastserve profile` measured right before and after the
run (`profile`), when the machine had another speed. Arrivals are Poisson at a share of the rate that the simulator, on the profile measured last, finds the engine to
keep up with. With --json, runs are added to the file, and the table is of all runs in it.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.demo.model import build_demo_model
from bench.fidelity.replay import RealRun, replay
from bench.lib.report import write_json
from fastserve.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from fastserve.sim import FittedCost, Profile, Summary, profile_deployment, simulate
from fastserve.sim.calibrate import fitted_coefficients
from fastserve.sim.cost import CostModel
from fastserve.sim.measure import measure_profile
from fastserve.workload import Workload, add_workload_arguments, poisson_arrivals, workload_from

ROOT = Path(__file__).parents[2]
POLICIES = ("fcfs", "skip-join-mlfq", "learned", "priority")
LOADS = (0.5, 0.8, 1.1)
MAX_MODEL_LEN = 256
BATCH_SLOTS = 8
DEVICE_BLOCKS = 48  # 768 tokens of KV: three of the longest requests
HOST_BLOCKS = 1024
COUNTS = ("iterations", "preemptions", "swaps", "upload_blocks")

Row = dict[str, object]


def engine_config(model: Path, policy: str) -> EngineConfig:
    """A small engine, with too little KV memory for all requests of a heavy load."""
    return EngineConfig(
        model=ModelConfig(model=str(model), max_model_len=MAX_MODEL_LEN, device="cpu"),
        cache=CacheConfig(
            num_gpu_blocks_override=DEVICE_BLOCKS, num_host_blocks_override=HOST_BLOCKS, enable_prefix_caching=False
        ),
        scheduler=SchedulerConfig(
            scheduling_policy=policy, max_num_seqs=BATCH_SLOTS, max_prefill_chunk_tokens=MAX_MODEL_LEN // 2
        ),
    )


def fresh_profile(config: EngineConfig) -> Profile:
    """Measure, whatever was measured before; the engine that starts next begins with this latency model."""
    for file in Path(os.environ["XDG_CACHE_HOME"]).rglob("*.json"):
        file.unlink()
    return measure_profile(config)


def measured_runs(requests: Workload, model: Path, loads: list[float], policies: list[str]) -> Iterator[Row]:
    """One run of every policy at every load, the policies next to each other."""
    before = fresh_profile(engine_config(model, "fcfs"))
    for load in loads:
        for policy in policies:
            config = engine_config(model, policy)
            rate = load * _capacity(requests, before)
            arrival_s = poisson_arrivals(rate, len(requests), np.random.default_rng(requests.seed))
            workload = replace(requests, arrival_s=arrival_s)
            run = replay(workload, config)
            after = fresh_profile(config)
            yield _row(workload, config, run, (before, after)) | {"load": load, "policy": policy, "rate": rate}
            before = after


def _capacity(requests: Workload, profile: Profile) -> float:
    """Requests per second with all of them there from the start."""
    at_once = replace(requests, arrival_s=np.zeros(len(requests)))
    scheduler = engine_config(Path(profile.model), "fcfs").scheduler
    return simulate(at_once, profile_deployment(profile), scheduler).summary.requests_per_s


def _row(workload: Workload, config: EngineConfig, run: RealRun, profiles: tuple[Profile, Profile]) -> Row:
    """The real run beside both simulations, as plain values."""
    before, after = profiles
    steps = run.iterations
    seconds = steps[:, 5] + np.nanmean(steps[:, 6])
    coefficients = {
        "fitted": fitted_coefficients(np.column_stack([steps[:, 1:5], seconds])),
        "profile": tuple(np.mean([before.coefficients, after.coefficients], axis=0).tolist()),
    }
    fitted = FittedCost(coefficients["fitted"])
    deviations = seconds / [fitted.iteration_s(*shape) for shape in steps[:, 1:5].tolist()]
    costs: dict[str, CostModel] = {
        "fitted": fitted,
        "machine": MachineCost(fitted, deviations),
        "profile": FittedCost(coefficients["profile"]),
    }
    deployment = profile_deployment(before)
    row: Row = {
        "real": _figures(run.summary),
        "foreign_share": run.foreign_share,
        "correction": run.correction,
        "gap_us": float(np.nanmean(steps[:, 6]) * 1e6),
        "slowness_by_second": _slowness(steps[:, 0], seconds, deviations),
        "coefficients": coefficients,
    }
    for name, cost in costs.items():
        simulated = simulate(workload, replace(deployment, cost=cost), config.scheduler, endings="known")  # as replayed
        row[name] = _figures(simulated.summary)
    return row


class MachineCost:
    """A cost model on a machine whose speed changes: iteration after iteration it takes so many times as long as it should.

    So the same shape does not always take the same time, as other cost models promise.
    """

    def __init__(self, cost: CostModel, deviations: np.ndarray) -> None:
        """Deviations of single iterations, in order; after the last one they start again from the first."""
        self._cost = cost
        self._deviations = itertools.cycle(deviations.tolist())

    def iteration_s(self, prefill_tokens: float, prefill_pairs: float, num_decodes: float, decode_ctx: float) -> float:
        """See CostModel; called once per iteration."""
        return next(self._deviations) * self._cost.iteration_s(prefill_tokens, prefill_pairs, num_decodes, decode_ctx)


def _slowness(end_s: np.ndarray, seconds: np.ndarray, deviations: np.ndarray) -> list[float]:
    """Time of the iterations of each second over that of the fit: how evenly the machine worked; 0 = it had nothing to do."""
    second = end_s.astype(int)
    took, modelled = np.bincount(second, seconds), np.bincount(second, seconds / deviations)
    return np.round(np.divide(took, modelled, out=np.zeros_like(took), where=modelled > 0), 3).tolist()


def _figures(summary: Summary) -> dict[str, float]:
    latency = summary.normalized_latency_s
    counts = {name: getattr(summary, name) for name in COUNTS}
    return {"mean_ms": latency.mean * 1e3, "p95_ms": latency.p95 * 1e3, "ttft_ms": summary.ttft_s.mean * 1e3} | counts


def report(rows: list[Row], against: str) -> Table:
    """Medians over the runs of each load and policy; errors are medians of the errors of runs."""
    table = Table(title=f"Normalised latency in ms per token, real and simulated ({against})")
    for name in ("load", "policy", "runs", "mean", "error", "p95", "error", *COUNTS):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for load, policy in dict.fromkeys((row["load"], row["policy"]) for row in rows):
        group = [row for row in rows if (row["load"], row["policy"]) == (load, policy)]
        cells = []
        for key in ("mean_ms", "p95_ms"):
            error = statistics.median(_of(row, against)[key] / _of(row, "real")[key] - 1.0 for row in group)
            cells += [_pair(group, against, key, ".1f"), f"{error:+.1%}"]
        counts = [_pair(group, against, key, ".0f") for key in COUNTS]
        table.add_row(str(load), str(policy), str(len(group)), *cells, *counts)
    return table


def _pair(rows: list[Row], against: str, key: str, form: str) -> str:
    real, simulated = (statistics.median(_of(row, name)[key] for row in rows) for name in ("real", against))
    return f"{real:{form}} / {simulated:{form}}"


def _of(row: Row, name: str) -> Mapping[str, float]:
    figures = row[name]
    if not isinstance(figures, dict):
        raise TypeError(f"{name} of a run must be a table, got {figures!r}")
    return figures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fidelity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policies", default=",".join(POLICIES), metavar="NAME,...")
    parser.add_argument("--loads", default=",".join(map(str, LOADS)), metavar="X,...", help="shares of the capacity")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="0: print the table of the file alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the runs to FILE")
    parser.add_argument(
        "--max-foreign-share",
        type=float,
        default=1.0,
        metavar="X",
        help="leave runs out of the table in which other processes had more of the processors (default: 1)",
    )
    add_workload_arguments(parser, arrivals=False)
    parser.set_defaults(num_prompts=200, length_scale=0.1, max_total_len=2400, priority_shares="0:0.3,1:0.7")
    return parser.parse_args()


def main() -> None:
    """Run, print a line per run as it ends, then the tables."""
    args = _arguments()
    console = Console(width=150)
    requests = workload_from(args)
    rows: list[Row] = []
    if args.json is not None and args.json.exists():
        rows = json.loads(args.json.read_text())["results"]
    loads, policies = [float(load) for load in args.loads.split(",")], args.policies.split(",")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        documents = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md"))
        model = build_demo_model(ROOT / "build" / "demo" / "model", documents)
        for _ in range(args.repeats):
            for row in measured_runs(requests, model, loads, policies):
                rows.append(row)
                _print_run(console, row)
                if args.json is not None:
                    write_json(args.json, config=_config(args, requests), results=rows)
    kept = [row for row in rows if row["foreign_share"] <= args.max_foreign_share]
    for against in _SERIES[1:]:
        console.print(report(kept, against))


def _print_run(console: Console, row: Row) -> None:
    figures = (f"{name} {_of(row, name)['mean_ms']:.2f} / {_of(row, name)['p95_ms']:.2f}" for name in _SERIES)
    shares = f"others had {row['foreign_share']:.0%} of the processors"
    console.print(f"load {row['load']} {row['policy']}: {', '.join(figures)} ms (mean / p95); {shares}")


_SERIES = ("real", "fitted", "machine", "profile")


def _config(args: argparse.Namespace, requests: Workload) -> dict[str, object]:
    lengths = {
        "requests": len(requests),
        "mean_prompt_tokens": float(requests.prompt_tokens.mean()),
        "mean_output_tokens": float(requests.output_tokens.mean()),
    }
    settings = {"batch_slots": BATCH_SLOTS, "device_blocks": DEVICE_BLOCKS, "host_blocks": HOST_BLOCKS}
    return lengths | settings | {"workload": requests.name, "priority_shares": args.priority_shares, "seed": args.seed}


if __name__ == "__main__":
    main()
