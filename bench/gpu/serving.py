"""Latency and throughput of the engine on a random model of a known shape.

`python -m bench.gpu.serving --shape llama-3-8b [--layers 8] [--batches 16,256] [--policies skip-join-mlfq,fcfs] [--loads 0.8,1.1]`

Drives EngineCore in this process, as the offline API does, so that nothing of HTTP is needed, with one loaded model for all runs.
For every batch size: a full batch of decodes against the time in which memory can be read; then requests that arrive
over time, at shares of the rate that this batch could bear, the same for every policy. Token latency: (end - arrival) /
output tokens, mean and 90th percentile.
"""

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.gpu.engine_runs import SEED, Engine, burst, make_load, row_of, serve
from bench.gpu.progress import Progress, run_item
from bench.gpu.shapes import SHAPES, weight_bytes, write_shape
from bench.gpu.words import burst_line, load_line
from bench.lib.report import write_json
from fastserve import _C
from fastserve.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from fastserve.errors import DeviceError
from fastserve.models.kv_cache import kv_block_bytes
from fastserve.models.registry import read_spec
from fastserve.ops.stream import stream_of

BURST_PROMPT = 128
LEAST_HOST_KV_GIB = 1.0
READ_BYTES = {"cuda": 2_000_000_000, "cpu": 64_000_000}
READS = 10


def read_rate(device: str) -> float:
    """Bytes per second of reading memory with our kernel, in a loop."""
    memory = torch.ones(READ_BYTES[device] // 4, device=device)
    sums = torch.empty(4 * torch.cuda.get_device_properties(memory.device).multi_processor_count if device == "cuda" else 1,
                       device=device)  # fmt: skip

    def read() -> None:
        for _ in range(READS):
            _C.kernels.read_bandwidth(memory, sums, stream=stream_of(memory))
        if device == "cuda":
            torch.cuda.synchronize()

    read()
    started_s = time.perf_counter()
    read()
    rate = READS * READ_BYTES[device] / (time.perf_counter() - started_s)
    if device == "cuda":
        del memory, sums
        torch.cuda.empty_cache()
    return rate


class Bench:
    """The runs on one engine."""

    def __init__(self, args: argparse.Namespace, model: Path, progress: Progress) -> None:
        self._args = args
        self._progress = progress
        self._vocab_size = SHAPES[args.shape]["vocab_size"]
        self._batches = [int(word) for word in args.batches.split(",")]
        self._read_rate = read_rate(args.device)
        spec = read_spec(model)
        dtype = getattr(torch, SHAPES[args.shape]["torch_dtype"])
        self._kv_token_bytes = kv_block_bytes(spec, 16, dtype) / 16
        self._weight_bytes = weight_bytes(args.shape, spec.num_layers)
        self._engine = self._start(model)
        info = self._engine.info
        self._kv_tokens = info.num_device_blocks * info.block_size
        # Torch's attention, where our kernels are not trusted, is too slow for all of it.
        self._scale = 0.1 if info.attention_backend == "torch" and args.device == "cuda" else 1.0
        self.rows: list[dict[str, object]] = []
        print(
            f"{args.shape}: started in {self._engine.start_s:.1f} s, attention {info.attention_backend}"
            f" {info.kernel_fallback}, KV of {self._kv_tokens} tokens, memory read at {self._read_rate / 1e9:.0f} GB/s",
            flush=True,
        )
        if progress.begin("start"):
            progress.end(
                "start", shape=args.shape, device=info.device, seconds=self._engine.start_s, kv_tokens=self._kv_tokens,
                attention=info.attention_backend, fallback=info.kernel_fallback, read_bytes_per_s=self._read_rate,
            )  # fmt: skip

    def _start(self, model: Path) -> Engine:
        """With less host memory where so much cannot be had: a smaller pool tells more than none."""
        args, gib = self._args, self._args.host_kv_gib
        while True:
            try:
                return Engine(self._config(model, gib))
            except DeviceError as error:
                print(f"with {gib:g} GiB for parked KV: {error}", flush=True)
                if gib < LEAST_HOST_KV_GIB:
                    raise
            # Outside the handler, whose error would keep the weights of the engine that did not start.
            gib /= 4
            gc.collect()
            if args.device == "cuda":
                torch.cuda.empty_cache()

    def _config(self, model: Path, host_kv_gib: float) -> EngineConfig:
        args = self._args
        return EngineConfig(
            model=ModelConfig(model=str(model), load_format="dummy", device=args.device, enforce_eager=args.enforce_eager,
                              max_model_len=args.max_model_len),
            cache=CacheConfig(num_gpu_blocks_override=args.device_blocks, host_kv_gib=host_kv_gib,
                              enable_prefix_caching=False),
            scheduler=SchedulerConfig(scheduling_policy="fcfs", max_num_seqs=max(self._batches)),
        )  # fmt: skip

    def run(self) -> None:
        """Everything that the command line asks for, as long as there is time."""
        args, policies = self._args, self._args.policies.split(",")
        loads = [float(word) for word in args.loads.split(",") if word]
        deadline_s = time.monotonic() + args.budget
        for batch in self._batches:
            self._item(f"batch {batch} full", lambda batch=batch: self._full_batch(batch))
        for batch in self._batches if loads else ():
            run_item(self._progress, f"batch {batch} rate", lambda batch=batch: {"rate": self._bearable_rate(batch)})
        for load in loads:
            for batch in self._batches:
                for policy in policies:
                    if time.monotonic() > deadline_s:
                        print(f"{policy}, batch {batch}, load {load:g}: no time left", flush=True)
                        continue
                    name = f"batch {batch} load {load:g} {policy}"
                    self._item(name, lambda p=policy, b=batch, x=load: self._arrivals(p, b, x))

    def _item(self, name: str, work: Callable[[], dict[str, object]]) -> None:
        row = run_item(self._progress, name, work)
        if row is not None:
            self.rows.append({"name": name, **row})

    def _rows_that_fit(self, batch: int, tokens: float) -> int:
        return max(1, min(batch, int(self._kv_tokens // (tokens + 16))))

    def _full_batch(self, batch: int) -> dict[str, object]:
        """Requests that start together and stay together: the step of a full batch beside what memory allows."""
        prompt = min(BURST_PROMPT, self._args.max_model_len // 2)
        output = max(16, int(self._scale * min(192, self._args.max_model_len // 2 - 1)))
        rows = self._rows_that_fit(batch, prompt + output)
        outcome = serve(self._engine.core("fcfs", batch), burst(rows, prompt=prompt, output=output,
                                                                vocab_size=self._vocab_size))  # fmt: skip
        full = outcome.steps.decodes_of(rows)
        step_s = outcome.steps.median_of(full)
        if step_s is None:
            raise RuntimeError(f"{int(full.sum())} steps of {rows} decodes are too few to tell")
        context = prompt + output // 2
        bound_s = (self._weight_bytes + rows * context * self._kv_token_bytes) / self._read_rate
        device_s = self._engine.time_decode(rows, context)
        row = {
            "kind": "saturated", "batch": batch, "rows": rows, "context": context, "steps": int(full.sum()),
            "step_s": step_s, "device_s": device_s, "bound_s": bound_s, "of_bound": bound_s / step_s,
            "host_s_per_step": step_s - device_s, "tokens_per_s": rows / step_s,
            "prefill_s": self._engine.time_prefill(min(512, self._args.max_model_len // 2)),
            "schedule_s_per_step": outcome.stats["schedule_s"] / outcome.stats["iterations"],
            "cpu_s_per_step": outcome.cpu_s / outcome.stats["iterations"],
            "step_seconds": outcome.steps.seconds,
        }  # fmt: skip
        print(burst_line(self._args.shape, row), flush=True)
        return row

    def _bearable_rate(self, batch: int) -> float:
        """Requests per second that a batch that is always full can serve; from the times of single steps."""
        args = self._args
        if args.rate:
            return args.rate
        rows = self._rows_that_fit(batch, args.prompt + args.output)
        decode_s = self._engine.time_decode(rows, int(args.prompt + args.output / 2))
        chunk = min(512, args.max_model_len // 2)
        return 1.0 / (
            args.output * self._scale * decode_s / rows + args.prompt * self._engine.time_prefill(chunk) / chunk
        )

    def _arrivals(self, policy: str, batch: int, load: float) -> dict[str, object]:
        args = self._args
        rate = self._progress.ended[f"batch {batch} rate"]["rate"] * load
        requests = make_load(max(4, round(rate * args.window)), rate, prompt=args.prompt, output=args.output * self._scale,
                             longest=args.max_model_len, vocab_size=self._vocab_size)  # fmt: skip
        outcome = serve(self._engine.core(policy, batch), requests)
        row = {"kind": "load", "batch": batch, "load": load, "rate": rate} | row_of(policy, requests, outcome)
        print(load_line(args.shape, row), flush=True)
        return row

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3-8b", help="the model's shape")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has, to save time and memory")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--policies", default="skip-join-mlfq", help="scheduling policies, separated by commas")
    parser.add_argument("--batches", default="256", help="batch slots, separated by commas")
    parser.add_argument(
        "--loads",
        default="0.8",
        help="arrivals as shares of the bearable rate, separated by commas; '' for full batches alone",
    )
    parser.add_argument("--rate", type=float, help="bearable rate, requests per second; default: from timed steps")
    parser.add_argument("--window", type=float, default=8.0, help="seconds in which requests arrive")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no further run begins")
    parser.add_argument("--prompt", type=float, default=160.0, help="mean prompt length, tokens")
    parser.add_argument("--output", type=float, default=200.0, help="mean output length, tokens")
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--device-blocks", type=int, help="KV blocks on the device, to put it under pressure")
    parser.add_argument("--host-kv-gib", type=float, default=8.0)
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--progress", type=Path, metavar="FILE", help="see bench/gpu/progress.py")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write results with every raw sample to FILE")
    args = parser.parse_args()
    progress = Progress(args.progress or Path(os.devnull))
    with tempfile.TemporaryDirectory() as folder:
        try:
            bench = Bench(args, write_shape(Path(folder), args.shape, num_layers=args.layers), progress)
        except Exception as error:  # to try again would take long and end in the same way
            progress.end("start", "failed", error=f"{type(error).__name__}: {error}"[:2000])
            progress.done()
            raise
        try:
            bench.run()
        finally:
            bench.close()
    progress.done()
    if args.json:
        paths = ("json", "progress")
        config = {key: value for key, value in vars(args).items() if key not in paths} | {"seed": SEED}
        write_json(args.json, config=config, results=bench.rows)


if __name__ == "__main__":
    main()
