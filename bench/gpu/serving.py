"""Latency and throughput of the engine on a random model of a known shape, requests arriving over time.

`python -m bench.gpu.serving --shape llama-3-8b [--layers 8] [--policies skip-join-mlfq,fcfs] [--json FILE]`

Drives EngineCore in this process, as the offline face does, so that nothing of HTTP is needed. Every policy serves the
same requests with the same KV pool. Token latency: (end - arrival) / output tokens, mean and 90th percentile.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.gpu.shapes import SHAPES, write_shape
from bench.lib.report import write_json
from fastserve.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from fastserve.engine.core import EngineCore
from fastserve.types import EngineRequest, SamplingParams
from fastserve.workload import lognormal_lengths, poisson_arrivals

SEED = 3
IDLE_S = 0.0005


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """Requests: when they arrive, seconds, and how long prompt and output are, tokens."""

    arrival_s: np.ndarray
    prompt_len: np.ndarray
    output_len: np.ndarray
    prompts: list[list[int]]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """Of one policy; arrays per request, seconds."""

    first_token_s: np.ndarray
    end_s: np.ndarray
    duration_s: float
    stats: dict[str, float]


def make_load(count: int, rate: float, *, prompt: float, output: float, longest: int, vocab_size: int) -> Load:
    """Poisson arrivals of log-normal lengths, cut so that prompt + output fits `longest`."""
    rng = np.random.default_rng(SEED)
    arrival_s = poisson_arrivals(rate, count, rng)
    prompt_len = np.minimum(lognormal_lengths(prompt, count, rng), longest * 2 // 3)
    output_len = np.minimum(lognormal_lengths(output, count, rng), longest - prompt_len - 1)
    prompts = [rng.integers(3, vocab_size, n).tolist() for n in prompt_len]
    return Load(arrival_s, prompt_len, np.maximum(output_len, 1), prompts)


def serve(core: EngineCore, load: Load) -> Outcome:
    """Feed the requests at their times and step until all have ended."""
    count = len(load.arrival_s)
    first_token_s, end_s = np.full(count, np.nan), np.full(count, np.nan)
    before = dataclasses.asdict(core.stats())
    started_s, added, ended = time.monotonic(), 0, 0
    while ended < count:
        now_s = time.monotonic() - started_s
        while added < count and load.arrival_s[added] <= now_s:
            sampling = SamplingParams(temperature=0.0, max_tokens=int(load.output_len[added]), ignore_eos=True)
            core.add_request(EngineRequest(request_id=added, prompt_token_ids=load.prompts[added], sampling=sampling))
            added += 1
        if not core.has_work():
            time.sleep(IDLE_S)
            continue
        if delay_s := core.planning_delay_s():
            time.sleep(min(delay_s, IDLE_S))
            continue
        for output in core.step():
            now_s = time.monotonic() - started_s
            if output.token_ids and np.isnan(first_token_s[output.request_id]):
                first_token_s[output.request_id] = now_s
            if output.finish_reason is not None:
                if output.finish_reason != "length":
                    raise RuntimeError(f"request {output.request_id} ended with {output.finish_reason}")
                end_s[output.request_id] = now_s
                ended += 1
    duration_s = time.monotonic() - started_s
    after = dataclasses.asdict(core.stats())
    names = (
        "iterations",
        "iteration_tokens",
        "execute_s",
        "schedule_s",
        "offload_bytes",
        "upload_bytes",
        "preemptions",
    )
    return Outcome(first_token_s, end_s, duration_s, {name: after[name] - before[name] for name in names})


def row_of(policy: str, load: Load, outcome: Outcome) -> dict[str, object]:
    """One result: latencies in seconds, throughput, and what the engine did, with every raw sample."""
    first_s = outcome.first_token_s - load.arrival_s
    per_token_s = (outcome.end_s - load.arrival_s) / load.output_len
    return {
        "policy": policy,
        "requests": len(load.arrival_s),
        "output_tokens_per_s": float(load.output_len.sum() / outcome.duration_s),
        "first_token_mean_s": float(first_s.mean()),
        "first_token_p90_s": float(np.quantile(first_s, 0.9)),
        "token_latency_mean_s": float(per_token_s.mean()),
        "token_latency_p90_s": float(np.quantile(per_token_s, 0.9)),
        "duration_s": outcome.duration_s,
        **outcome.stats,
        "first_token_s": first_s.tolist(),
        "token_latency_s": per_token_s.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3-8b", help="the model's shape")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has, to save time and memory")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--policies", default="skip-join-mlfq", help="scheduling policies, separated by commas")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--rate", type=float, default=16.0, help="arrivals per second")
    parser.add_argument("--prompt", type=float, default=160.0, help="mean prompt length, tokens")
    parser.add_argument("--output", type=float, default=200.0, help="mean output length, tokens")
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--device-blocks", type=int, help="KV blocks on the device, to put it under pressure")
    parser.add_argument("--host-kv-gib", type=float, default=8.0)
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results with every raw sample to FILE")
    args = parser.parse_args()
    vocab_size = SHAPES[args.shape]["vocab_size"]
    load = make_load(args.requests, args.rate, prompt=args.prompt, output=args.output, longest=args.max_model_len,
                     vocab_size=vocab_size)  # fmt: skip
    results = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_shape(Path(folder), args.shape, num_layers=args.layers)
        for policy in args.policies.split(","):
            results.append(row_of(policy, load, run_policy(policy, model, args, load)))
            print(line_of(args.shape, results[-1]), flush=True)
    if args.json:
        config = {key: value for key, value in vars(args).items() if key != "json"} | {"seed": SEED}
        write_json(args.json, config=config, results=results)


def run_policy(policy: str, model: Path, args: argparse.Namespace, load: Load) -> Outcome:
    """Start an engine, serve the load, stop the engine."""
    config = EngineConfig(
        model=ModelConfig(model=str(model), load_format="dummy", device=args.device, max_model_len=args.max_model_len,
                          enforce_eager=args.enforce_eager),
        cache=CacheConfig(num_gpu_blocks_override=args.device_blocks, host_kv_gib=args.host_kv_gib,
                          enable_prefix_caching=False),
        scheduler=SchedulerConfig(scheduling_policy=policy, max_num_seqs=args.max_num_seqs),
    )  # fmt: skip
    core = EngineCore.from_config(config)
    try:
        warm = Load(load.arrival_s[:4] * 0, load.prompt_len[:4], np.minimum(load.output_len[:4], 8), load.prompts[:4])
        serve(core, warm)
        return serve(core, load)
    finally:
        core.close()


def line_of(shape: str, row: dict[str, object]) -> str:
    """One line for the terminal."""
    return (
        f"{shape:<11} {row['policy']:<15} {row['output_tokens_per_s']:8.0f} tokens/s   first token"
        f" {1e3 * row['first_token_mean_s']:7.1f} ms (p90 {1e3 * row['first_token_p90_s']:7.1f})   per token"
        f" {1e3 * row['token_latency_mean_s']:6.2f} ms (p90 {1e3 * row['token_latency_p90_s']:6.2f})   swapped"
        f" {(row['offload_bytes'] + row['upload_bytes']) / 1e9:5.1f} GB"
    )


if __name__ == "__main__":
    main()
