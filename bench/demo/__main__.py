"""`make demo`: the same mixed load under fcfs and then under skip-join-mlfq, over HTTP, with too little KV memory for all.

Short requests arrive among long ones faster than the batch can take them. Under fcfs the short ones stand behind the long
ones; under skip-join-mlfq the long ones are parked, some of them to host memory, and come back. (Not the default policy,
learned: a load that asks for a number of tokens, whatever they say, tells it all lengths.)
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from bench.demo.model import VOCAB_SIZE, build_demo_model
from bench.serving.servers import fastserve_command, free_port, serving
from fastserve.bench.client import Target
from fastserve.bench.load import LoadOptions, LoadRun, run_load
from fastserve.bench.metrics import summarize
from fastserve.workload import NO_CONVERSATION, Workload, poisson_arrivals

ROOT = Path(__file__).parents[2]
POLICIES = ("fcfs", "skip-join-mlfq")
SHORT_SHARE = 0.8
SHORT = {"prompt": (8, 48), "output": (8, 24)}  # tokens, uniform
LONG = {"prompt": (64, 256), "output": (200, 500)}
MEAN_OUTPUT_TOKENS = SHORT_SHARE * sum(SHORT["output"]) / 2 + (1 - SHORT_SHARE) * sum(LONG["output"]) / 2
BATCH_SLOTS = 8
DEVICE_BLOCKS = 160  # 2,560 tokens of KV: a few long requests fill it
HOST_BLOCKS = 2048
FLAGS = ("--max-num-seqs", str(BATCH_SLOTS), "--num-gpu-blocks-override", str(DEVICE_BLOCKS),
         "--num-host-blocks-override", str(HOST_BLOCKS), "--kv-canary")  # fmt: skip
LOAD = 1.1  # offered tokens over those the machine can give: a queue builds up


OPTIONS = LoadOptions(vocab_size=VOCAB_SIZE, ignore_eos=True)


def mixed_load(rate: float, count: int, seed: int) -> Workload:
    """Poisson arrivals; four of five requests are short."""
    rng = np.random.default_rng(seed)
    short = rng.random(count) < SHORT_SHARE
    lengths = {
        name: np.where(short, rng.integers(*SHORT[name], count), rng.integers(*LONG[name], count))
        for name in ("prompt", "output")
    }
    return _workload(poisson_arrivals(rate, count, rng), lengths["prompt"], lengths["output"], seed)


def is_short(output_tokens: np.ndarray) -> np.ndarray:
    """Which requests of the mixed load are short."""
    return output_tokens < SHORT["output"][1]


def _workload(arrival_s: np.ndarray, prompt_tokens: np.ndarray, output_tokens: np.ndarray, seed: int) -> Workload:
    zero = np.zeros(len(arrival_s), np.int64)
    return Workload("demo", arrival_s, prompt_tokens, output_tokens, zero, zero + NO_CONVERSATION, seed=seed)


def capacity(model: Path, log: Path) -> float:
    """Output tokens per second of this machine with all batch slots busy."""
    count = 4 * BATCH_SLOTS
    load = _workload(np.zeros(count), np.full(count, 32), np.full(count, 64), 1)
    port = free_port()
    with serving(fastserve_command(model, port, *FLAGS), f"http://127.0.0.1:{port}", log) as url:
        target = Target(base_url=url, model="m")
        run_load(target, replace(load, seed=2).head(BATCH_SLOTS), OPTIONS)
        return summarize(run_load(target, load, OPTIONS))["output_throughput"]


def run_policy(policy: str, model: Path, load: Workload, log: Path) -> tuple[LoadRun, dict[str, float]]:
    """Serve the load under one policy; returns the results and the counters of /metrics."""
    port = free_port()
    command = fastserve_command(model, port, "--scheduling-policy", policy, *FLAGS)
    with serving(command, f"http://127.0.0.1:{port}", log) as url:
        total = int(load.output_tokens.sum())
        with tqdm(total=total, unit="tok", desc=f"{policy:>15}", dynamic_ncols=True) as bar:
            target = Target(base_url=url, model="m")
            run = run_load(target, load, OPTIONS, on_finish=lambda result: bar.update(result.output_tokens))
        return run, read_metrics(httpx.get(f"{url}/metrics").text)


def read_metrics(text: str) -> dict[str, float]:
    """Sums over labels of every sample of the Prometheus text format, by name without the prefix."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = name.split("{")[0].removeprefix("fastserve:")
            values[name] = values.get(name, 0.0) + float(value)
    return values


def group_summary(run: LoadRun, load: Workload, *, short: bool) -> dict[str, object]:
    """Figures of the short requests of a run, or of the long ones."""
    chosen = np.flatnonzero(is_short(load.output_tokens) == short)
    results = tuple(run.results[i] for i in chosen)
    return summarize(LoadRun(results=results, duration_s=run.duration_s), percentiles=(95,))


def report(runs: dict[str, tuple[LoadRun, dict[str, float]]], load: Workload, block_bytes: int) -> Table:
    """The final table: one row per policy."""
    table = Table(title="Normalised latency, milliseconds per output token (end to end)")
    for name in ("policy", "short mean", "short p95", "long mean", "long p95", "preemptions", "blocks moved", "errors"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for policy, (run, metrics) in runs.items():
        cells = []
        for short in (True, False):
            summary = group_summary(run, load, short=short)
            values = (summary[key] for key in ("mean_normalized_ms", "p95_normalized_ms"))
            cells += ["n/a" if value is None else f"{value:.1f}" for value in values]
        moved = metrics.get("kv_offload_store_bytes_total", 0.0) + metrics.get("kv_offload_load_bytes_total", 0.0)
        preemptions = metrics.get("num_preemptions_total", 0.0)
        errors = sum(bool(result.error) for result in run.results)
        table.add_row(policy, *cells, f"{preemptions:.0f}", f"{moved / block_bytes:.0f}", str(errors))
    return table


def kv_block_bytes(model: Path, block_size: int = 16) -> int:
    """Bytes of one KV block of the demo model (fp32)."""
    config = json.loads((model / "config.json").read_text())
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    return config["num_hidden_layers"] * 2 * config["num_key_value_heads"] * block_size * head_dim * 4


def main() -> None:
    """Run both policies and print the table; non-zero exit when a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the arrivals, per policy")
    parser.add_argument("--load", type=float, default=LOAD, help="offered load over the machine's capacity")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    console = Console(width=110)
    build = ROOT / "build" / "demo"
    model = build_demo_model(build / "model", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")))
    console.print("measuring what this machine can serve ...")
    tokens_per_s = capacity(model, build / "capacity.log")
    rate = args.load * tokens_per_s / MEAN_OUTPUT_TOKENS
    load = mixed_load(rate, max(round(rate * args.seconds), 40), args.seed)
    console.print(
        f"{tokens_per_s:.0f} tokens/s; sending {len(load)} requests, {is_short(load.output_tokens).sum()} of them"
        f" short, {rate:.1f}/s, to {BATCH_SLOTS} batch slots and {DEVICE_BLOCKS} KV blocks"
    )
    runs = {policy: run_policy(policy, model, load, build / f"{policy}.log") for policy in POLICIES}
    console.print(report(runs, load, kv_block_bytes(model)))
    short = [group_summary(runs[policy][0], load, short=True)["mean_normalized_ms"] for policy in POLICIES]
    console.print(
        f"short requests under skip-join-mlfq: {short[0] / short[1]:.1f} x lower mean latency than under fcfs"
    )
    if any(result.error for run, _ in runs.values() for result in run.results):
        raise SystemExit("some requests failed; see the logs in build/demo")


if __name__ == "__main__":
    main()
