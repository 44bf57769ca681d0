"""Measures the latency model at start, and keeps it on disk under a key of model, version and how it runs."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import fastserve
from fastserve._C.sched import LatencyModel
from fastserve.config import EngineConfig
from fastserve.executor.base import TimingExecutor
from fastserve.log import get_logger
from fastserve.worker.info import Progress

logger = get_logger(__name__)

TIME_BUDGET_S = 20.0
PREFILL_TOKENS = (16, 64, 256, 512)
PREFILL_CONTEXTS = (512,)  # besides none
DECODE_BATCHES = (1, 4, 16, 64, 256)
DECODE_CONTEXTS = (64, 512)

Measure = Callable[..., float]


def measured_latency_model(
    config: EngineConfig, executor: TimingExecutor, progress: Progress | None = None
) -> LatencyModel:
    """Read the latency model of a loaded model from disk, or measure it and keep it there.

    Args:
        progress: called as progress("profile", done, total) when it has to be measured.
    """
    info = executor.info
    how: list[str | int | bool] = [
        info.dtype,
        info.device,
        config.model.num_threads or len(os.sched_getaffinity(0)),  # of each rank
        info.attention_backend,
        config.model.enforce_eager,
        config.parallel.pipeline_parallel_size,
    ]
    path = profile_path(config.model.model, how)
    if (coefficients := read_profile(path)) is not None:
        return LatencyModel(coefficients)
    if progress is not None:
        progress("profile", 0, 1)
    model = LatencyModel()
    samples = profile_samples(
        executor.time_iteration,
        max_model_len=info.max_model_len,
        max_tokens=min(config.scheduler.max_prefill_chunk_tokens, config.scheduler.max_num_batched_tokens),
        max_num_seqs=config.scheduler.max_num_seqs,
        num_blocks=info.pools.num_device_blocks,
        block_size=config.cache.block_size,
    )
    model.fit(samples)
    write_profile(path, list(model.coefficients()))
    if progress is not None:
        progress("profile", 1, 1)
    return model


def profile_samples(measure: Measure, *, max_model_len: int, max_tokens: int, max_num_seqs: int,
                    num_blocks: int, block_size: int) -> np.ndarray:  # fmt: skip
    """Time a small grid of iterations.

    Args:
        measure: `Worker.time_iteration`.
        max_tokens: most tokens of a prefill chunk.
    Returns:
        float64[n, 5]: prefill_tokens, prefill_pairs (query x context), num_decodes, decode_ctx (summed over rows), seconds.
    """
    deadline_s = time.monotonic() + TIME_BUDGET_S
    pool_tokens = num_blocks * block_size
    rows: list[tuple[float, ...]] = []
    measure(
        prefill_tokens=min(16, max_tokens, max_model_len - 1), prefill_ctx=0, num_decodes=0, decode_ctx=0
    )  # warm-up

    def add(prefill: int, context: int, decodes: int, decode_ctx: int) -> None:
        if time.monotonic() > deadline_s:
            return
        shape = {"prefill_tokens": prefill, "prefill_ctx": context, "num_decodes": decodes, "decode_ctx": decode_ctx}
        seconds = min(measure(**shape) for _ in range(2))
        pairs = prefill * context + prefill * (prefill + 1) // 2
        rows.append((prefill, pairs, decodes, decodes * decode_ctx, seconds))

    longest = min(max_model_len - 1, pool_tokens)
    for batch in _grid(DECODE_BATCHES, max_num_seqs):
        for context in _grid(DECODE_CONTEXTS, longest):
            add(0, 0, batch, context)
    for tokens in _grid(PREFILL_TOKENS, min(max_tokens, longest)):
        for context in (0, *_grid(PREFILL_CONTEXTS, longest - tokens)):
            add(tokens, context, 0, 0)
    return np.array(rows, np.float64).reshape(-1, 5)


def _grid(points: Sequence[int], most: int) -> list[int]:
    """The points up to `most`, and `most` itself where it cuts the grid short: small limits would leave too few to fit."""
    fitting = [point for point in points if point <= most]
    return fitting if len(fitting) == len(points) or most < 1 else sorted({*fitting, most})


def profile_path(model: str, how: Sequence[str | int | bool]) -> Path:
    """Where the profile of this model on this machine is cached.

    Args:
        how: what else an iteration's time depends on: dtype, device, threads, kernels.
    """
    key = json.dumps([fastserve.__version__, str(Path(model).resolve()), _stamp(model), *how])
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "fastserve" / "profiles" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _stamp(model: str) -> str:
    config = Path(model) / "config.json"
    return hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else ""


def read_profile(path: Path) -> list[float] | None:
    """Return the coefficients of the latency model; None when there is no usable file."""
    try:
        values = json.loads(path.read_text())["coefficients"]
        return [float(v) for v in values] if len(values) == 5 and all(0.0 <= v < 1e6 for v in values) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_profile(path: Path, coefficients: list[float]) -> None:
    """Save the coefficients; if the folder cannot be written, log a warning: the next start measures again."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"coefficients": coefficients}))
        temporary.replace(path)
    except OSError as error:
        logger.warning("the latency profile is not kept: cannot write %s (%s)", path, error)
