"""`python -m bench.serving.roofline`: CPU serving against the machine's own roofs, all measured in the same run.

Model: the benchmark Llama (12 layers, 768 wide, fp32). Roofs: reading memory with all cores, torch's best fp32 GEMM.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.lib.report import write_json
from bench.serving.model import CONFIG, build_benchmark_model
from bench.serving.servers import fastserve_command, free_port, serving
from fastserve import _C
from fastserve.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from fastserve.executor.inproc import InprocExecutor
from fastserve.ops.attention import AttentionBatch, attention

ROOT = Path(__file__).parents[2]
PREFILL_TOKENS = 512
ATTENTION_BATCH, ATTENTION_CTX = 16, 1024
SERVER_BATCH, SERVER_TOKENS = 16, 160
ROUNDS = 15


def linear_parameters() -> tuple[int, int]:
    """Weights read by a decode step (all matrices and the head), and those of the layers alone."""
    hidden, intermediate = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    kv = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    layer = hidden * (2 * hidden + 2 * kv) + 3 * hidden * intermediate
    layers = CONFIG["num_hidden_layers"] * layer
    return layers + CONFIG["vocab_size"] * hidden, layers


def read_once(memory: torch.Tensor) -> float:
    """Bytes per second of one read of `memory` by all cores."""
    started_s = time.perf_counter()
    _C.kernels.read_bandwidth(memory, torch.empty(1))
    return memory.numel() * 4 / (time.perf_counter() - started_s)


def median_of(measure: Callable[[], float], rounds: int) -> float:
    """Median of several measurements."""
    return statistics.median(measure() for _ in range(rounds))


def torch_gemm_flops(threads: int) -> float:
    """Best fp32 rate of torch at the model's prefill shapes, FLOP/s: its own linear and MKL's packed one."""
    torch.set_num_threads(threads)
    hidden, intermediate = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    best = 0.0
    for rows, columns in ((hidden, 2 * intermediate), (intermediate, hidden)):
        x, weight = torch.randn(PREFILL_TOKENS, rows), torch.randn(columns, rows)
        packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, PREFILL_TOKENS)
        calls = (
            lambda x=x, weight=weight: torch.nn.functional.linear(x, weight),
            lambda x=x, weight=weight, packed=packed: torch.ops.mkl._mkl_linear(
                x, packed, weight, None, PREFILL_TOKENS
            ),
        )
        for call in calls:
            call()
            started_s = time.perf_counter()
            for _ in range(10):
                call()
            best = max(best, 10 * 2 * PREFILL_TOKENS * rows * columns / (time.perf_counter() - started_s))
    torch.set_num_threads(1)
    return best


def attention_beside_roof(memory: torch.Tensor) -> list[tuple[float, float]]:
    """(achieved, roof) in bytes per second, measured in turn: decode attention at batch 16, context 1024."""
    heads, kv_heads, dim = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"], CONFIG["head_dim"]
    pages = ATTENTION_CTX // 16
    cache = torch.randn(ATTENTION_BATCH * pages, 1, 2, kv_heads, 16, dim)
    batch = AttentionBatch(
        query_start=np.arange(ATTENTION_BATCH + 1, dtype=np.int32),
        seq_lens=np.full(ATTENTION_BATCH, ATTENTION_CTX, np.int32),
        block_start=np.arange(0, (ATTENTION_BATCH + 1) * pages, pages, dtype=np.int32),
        block_ids=np.random.default_rng(0).permutation(ATTENTION_BATCH * pages).astype(np.int32),
        num_decode_rows=ATTENTION_BATCH,
    )
    query = torch.randn(ATTENTION_BATCH, heads, dim)

    def once() -> float:
        started_s = time.perf_counter()
        attention(query, cache, batch, layer=0, scale=dim**-0.5)
        return time.perf_counter() - started_s

    once()
    pairs = []
    for _ in range(ROUNDS):
        roof = read_once(memory)  # which also takes the KV out of the caches
        pairs.append((cache.numel() * 4 / once(), roof))
    return pairs


def decode_beside_roof(executor: InprocExecutor, memory: torch.Tensor, num_decodes: int) -> list[tuple[float, float]]:
    """(achieved, roof) in bytes of weights per second, measured in turn."""
    weight_bytes = 4 * linear_parameters()[0]
    shape = {"prefill_tokens": 0, "prefill_ctx": 0, "num_decodes": num_decodes, "decode_ctx": 64}
    executor.time_iteration(**shape)
    return [(weight_bytes / executor.time_iteration(**shape), read_once(memory)) for _ in range(ROUNDS)]


def engine_rates(model: Path, memory: torch.Tensor) -> tuple[dict[int, list[tuple[float, float]]], float]:
    """Decode of the engine's own worker at batch 1 and 16 beside the roof, and its prefill time in seconds."""
    config = EngineConfig(
        model=ModelConfig(model=str(model), dtype="float32"),
        cache=CacheConfig(kv_gib=1.0, host_kv_gib=0.0),
        scheduler=SchedulerConfig(max_num_seqs=16),
    )
    executor = InprocExecutor(config)
    try:
        decodes = {batch: decode_beside_roof(executor, memory, batch) for batch in (1, 16)}
        prefill = {"prefill_tokens": PREFILL_TOKENS, "prefill_ctx": 0, "num_decodes": 0, "decode_ctx": 0}
        executor.time_iteration(**prefill)
        return decodes, median_of(lambda: executor.time_iteration(**prefill), 7)
    finally:
        executor.stop()


async def complete_together(url: str, count: int) -> None:
    """Equal requests at once, whole replies."""
    body = {
        "model": "m",
        "prompt": list(range(5, 21)),
        "max_tokens": SERVER_TOKENS,
        "temperature": 0.0,
        "ignore_eos": True,
    }
    async with httpx.AsyncClient(base_url=url, timeout=600.0) as client:
        for reply in await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(count))):
            reply.raise_for_status()


def overhead_per_step(model: Path, log: Path) -> dict[str, float]:
    """Wall time of a step at batch 16 beyond the model's own, seen through HTTP: seconds."""
    port = free_port()
    command = fastserve_command(model, port, "--max-num-seqs", "16", "--kv-gib", "1", "--no-enable-prefix-caching")
    with serving(command, f"http://127.0.0.1:{port}", log) as url:

        def counters() -> tuple[float, float]:
            values = {}
            for line in httpx.get(f"{url}/metrics").text.splitlines():
                if line and not line.startswith("#"):
                    name, value = line.rsplit(" ", 1)
                    values[name.split("{")[0].removeprefix("fastserve:")] = float(value)
            return values["execute_seconds_count"], values["execute_seconds_sum"]

        asyncio.run(complete_together(url, 1))
        iterations, execute_s = counters()
        started_s = time.perf_counter()
        asyncio.run(complete_together(url, SERVER_BATCH))
        wall_s = time.perf_counter() - started_s
        iterations_after, execute_after_s = counters()
        steps = iterations_after - iterations
        return {"overhead_s": (wall_s - (execute_after_s - execute_s)) / steps, "step_s": wall_s / steps}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write results there")
    args = parser.parse_args()
    build = ROOT / "build" / "bench"
    model = build_benchmark_model(build / "llama-12x768")
    threads = len(os.sched_getaffinity(0))
    all_weights, layer_weights = linear_parameters()
    memory = torch.ones(100 << 20)  # 400 MiB
    decodes, prefill_s = engine_rates(model, memory)
    gemm = torch_gemm_flops(threads)
    attended = attention_beside_roof(memory)
    overhead = overhead_per_step(model, build / "roofline.log")
    heads = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
    attention_flops = CONFIG["num_hidden_layers"] * 4 * heads * PREFILL_TOKENS * (PREFILL_TOKENS + 1) / 2
    prefill_flops = 2 * PREFILL_TOKENS * layer_weights + 2 * (all_weights - layer_weights) + attention_flops
    rows = [
        _row("decode, batch 1", decodes[1], "GB/s of weights", 0.70),
        _row("decode, batch 16", decodes[16], "GB/s of weights", None),
        _row(f"prefill, {PREFILL_TOKENS} tokens", [(prefill_flops / prefill_s, gemm)], "GFLOP/s", 0.70),
        _row(f"decode attention, {ATTENTION_BATCH} x {ATTENTION_CTX}", attended, "GB/s of KV", 0.70),
    ]
    table = Table(title="CPU serving against the roofs of this machine")
    for name in ("what", "achieved", "roof", "unit", "share", "goal"):
        table.add_column(name, justify="left" if name in ("what", "unit") else "right")
    for row in rows:
        table.add_row(row["what"], f"{row['achieved']:.1f}", f"{row['roof']:.1f}", row["unit"], f"{row['share']:.0%}",
                      f">= {row['goal']:.0%}" if row["goal"] else "")  # fmt: skip
    table.add_row("engine + server per step, batch 16", f"{1e3 * overhead['overhead_s']:.2f}", "", "ms",
                  f"{overhead['overhead_s'] / overhead['step_s']:.1%}", "<= 1 ms")  # fmt: skip
    Console().print(table)
    if args.json:
        write_json(args.json, config={"model": json.dumps(CONFIG), "threads": threads}, results=[*rows, overhead])


def _row(what: str, pairs: list[tuple[float, float]], unit: str, goal: float | None) -> dict[str, object]:
    """One line of the table: medians, and the median of the ratios pair by pair."""
    achieved, roof = (statistics.median(pair[i] for pair in pairs) / 1e9 for i in (0, 1))
    share = statistics.median(a / r for a, r in pairs)
    return {
        "what": what,
        "achieved": achieved,
        "roof": roof,
        "share": share,
        "unit": unit,
        "goal": goal,
        "pairs": pairs,
    }


if __name__ == "__main__":
    main()
