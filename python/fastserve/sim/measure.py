"""Measures an engine on this machine: its latency model and the rate of its KV copies."""

import statistics
import time

import numpy as np

import fastserve
from fastserve._C import num_threads
from fastserve._C.offload import Direction, OffloadEngine
from fastserve.config import EngineConfig
from fastserve.engine.profiler import measured_latency_model
from fastserve.executor.inproc import InprocExecutor
from fastserve.sim.calibrate import loop_coefficients
from fastserve.sim.cost import as_coefficients
from fastserve.sim.profile import Profile
from fastserve.worker.info import Progress
from fastserve.worker.transfers import Transfers

_COPY_BYTES = 64 << 20  # of one timed copy
_REPEATS = 5


def measure_profile(config: EngineConfig, progress: Progress | None = None) -> Profile:
    """Load a model as an engine does and measure it: iterations in the engine's loop, and copies of KV.

    Args:
        progress: called as progress(stage, done, total).
    Raises:
        InvalidArgumentError: the configuration does not fit the model or the machine.
        CheckpointError: the checkpoint cannot be used.
    """
    executor = InprocExecutor(config, progress)
    try:
        latency = measured_latency_model(config, executor, progress)
        coefficients = loop_coefficients(config, executor, latency)
        info = executor.info
        offload, upload, share = _copy_rates(executor.worker.transfers, info.pools.num_device_blocks)
    finally:
        executor.stop()
    return Profile(
        model=config.model.model,
        dtype=info.dtype,
        device=info.device,
        num_threads=num_threads(),
        max_model_len=info.max_model_len,
        vocab_size=info.vocab_size,
        block_size=config.cache.block_size,
        block_bytes=info.pools.block_bytes,
        num_device_blocks=info.pools.num_device_blocks,
        num_host_blocks=info.pools.num_host_blocks,
        coefficients=coefficients,
        latency_coefficients=as_coefficients(latency.coefficients()),
        offload_bytes_per_s=offload,
        upload_bytes_per_s=upload,
        duplex_share=share,
        fastserve=fastserve.__version__,
    )


def _copy_rates(transfers: Transfers, num_device_blocks: int) -> tuple[float, float, float]:
    """Bytes per second out and in, each measured alone, and the share of the rate that remains with both at once."""
    engine, arena = transfers.engine, transfers.arena
    if engine is None or arena is None or min(num_device_blocks, arena.num_blocks) < 2:
        return 0.0, 0.0, 1.0
    count = min(max(1, _COPY_BYTES // engine.block_bytes), num_device_blocks // 2, arena.num_blocks // 2)
    first, second = np.arange(count, dtype=np.int32), np.arange(count, 2 * count, dtype=np.int32)
    out, back = (Direction.DEVICE_TO_HOST, first), (Direction.HOST_TO_DEVICE, second)
    out_s, back_s, both_s = (_seconds(engine, copies) for copies in ([out], [back], [out, back]))
    num_bytes = count * engine.block_bytes
    return num_bytes / out_s, num_bytes / back_s, min(1.0, max(out_s, back_s) / both_s)


def _seconds(engine: OffloadEngine, copies: list[tuple[Direction, np.ndarray]]) -> float:
    """Median time until all of these copies, started together, have ended."""
    times = []
    for repeat in range(_REPEATS + 1):
        started_s = time.perf_counter()
        tickets = [engine.submit(direction, blocks, blocks) for direction, blocks in copies]
        for ticket in tickets:
            engine.wait(ticket)
        if repeat:  # the first touches the pages
            times.append(time.perf_counter() - started_s)
    return statistics.median(times)
