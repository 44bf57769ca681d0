"""`make demo`: the same mixed load under fcfs and then under skip-join-mlfq, over HTTP, with too little KV memory for all.

Short requests arrive among long ones faster than the batch can take them. Under fcfs the short ones stand behind the long
ones; under skip-join-mlfq the long ones are parked, some of them to host memory, and come back.
"""

import argparse
import asyncio
import json
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from bench.demo.model import VOCAB_SIZE, build_demo_model
from bench.serving.load import TimedRequest, TimedResult, poisson_arrivals, run_load, summarize
from bench.serving.servers import fastserve_command, free_port, serving

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


def mixed_load(rate: float, count: int, seed: int) -> list[TimedRequest]:
    """Poisson arrivals; four of five requests are short."""
    rng = np.random.default_rng(seed)
    requests = []
    for arrival_s in poisson_arrivals(rate, count, rng):
        group, lengths = ("short", SHORT) if rng.random() < SHORT_SHARE else ("long", LONG)
        prompt = rng.integers(1, VOCAB_SIZE, rng.integers(*lengths["prompt"]))
        requests.append(
            TimedRequest(float(arrival_s), tuple(prompt.tolist()), int(rng.integers(*lengths["output"])), group)
        )
    return requests


def capacity(model: Path, log: Path) -> float:
    """Output tokens per second of this machine with all batch slots busy."""
    requests = [TimedRequest(0.0, tuple(range(1, 33)), 64) for _ in range(4 * BATCH_SLOTS)]
    port = free_port()
    with serving(fastserve_command(model, port, *FLAGS), f"http://127.0.0.1:{port}", log) as url:
        asyncio.run(run_load(url, "m", requests[:BATCH_SLOTS]))
        return summarize(asyncio.run(run_load(url, "m", requests)))["output_tokens_per_s"]


def run_policy(
    policy: str, model: Path, requests: list[TimedRequest], log: Path
) -> tuple[list[TimedResult], dict[str, float]]:
    """Serve the load under one policy; returns the results and the counters of /metrics."""
    port = free_port()
    command = fastserve_command(model, port, "--scheduling-policy", policy, *FLAGS)
    with serving(command, f"http://127.0.0.1:{port}", log) as url:
        total = sum(r.output_tokens for r in requests)
        with tqdm(total=total, unit="tok", desc=f"{policy:>15}", dynamic_ncols=True) as bar:
            results = asyncio.run(run_load(url, "m", requests, on_finish=lambda r: bar.update(r.output_tokens)))
        return results, read_metrics(httpx.get(f"{url}/metrics").text)


def read_metrics(text: str) -> dict[str, float]:
    """Sums over labels of every sample of the Prometheus text format, by name without the prefix."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = name.split("{")[0].removeprefix("fastserve:")
            values[name] = values.get(name, 0.0) + float(value)
    return values


def report(runs: dict[str, tuple[list[TimedResult], dict[str, float]]], block_bytes: int) -> Table:
    """The final table: one row per policy."""
    table = Table(title="Normalised latency, milliseconds per output token (end to end)")
    for name in ("policy", "short mean", "short p95", "long mean", "long p95", "preemptions", "blocks moved", "errors"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for policy, (results, metrics) in runs.items():
        cells = []
        for group in ("short", "long"):
            summary = summarize([r for r in results if r.request.group == group])
            cells += [f"{1e3 * summary[key]:.1f}" for key in ("mean_normalized_s", "p95_normalized_s")]
        moved = metrics.get("kv_offload_store_bytes_total", 0.0) + metrics.get("kv_offload_load_bytes_total", 0.0)
        preemptions = metrics.get("num_preemptions_total", 0.0)
        errors = sum(bool(r.error) for r in results)
        table.add_row(policy, *cells, f"{preemptions:.0f}", f"{moved / block_bytes:.0f}", str(errors))
    return table


def kv_block_bytes(model: Path, block_size: int = 16) -> int:
    """Bytes of one KV block of the demo model (fp32)."""
    config = json.loads((model / "config.json").read_text())
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    return config["num_hidden_layers"] * 2 * config["num_key_value_heads"] * block_size * head_dim * 4


def main() -> None:
    """Run both policies and print the table; non-zero exit when a request failed or nothing was parked."""
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
    requests = mixed_load(rate, max(round(rate * args.seconds), 40), args.seed)
    console.print(
        f"{tokens_per_s:.0f} tokens/s; sending {len(requests)} requests, {sum(r.group == 'short' for r in requests)} of them"
        f" short, {rate:.1f}/s, to {BATCH_SLOTS} batch slots and {DEVICE_BLOCKS} KV blocks"
    )
    runs = {policy: run_policy(policy, model, requests, build / f"{policy}.log") for policy in POLICIES}
    console.print(report(runs, kv_block_bytes(model)))
    short = [summarize([r for r in runs[p][0] if r.request.group == "short"])["mean_normalized_s"] for p in POLICIES]
    console.print(
        f"short requests under skip-join-mlfq: {short[0] / short[1]:.1f} x lower mean latency than under fcfs"
    )
    if any(r.error for results, _ in runs.values() for r in results):
        raise SystemExit("some requests failed; see the logs in build/demo")


if __name__ == "__main__":
    main()
