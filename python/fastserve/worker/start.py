"""Start of a worker: check the attention kernels, size and allocate the KV pool, make the runner.

On a GPU the pool gets what a step of the largest size leaves, and decode steps are captured; that part
runs on the CPU under a simulated device (tests/fake_device.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fastserve.config import GIB, MIB, EngineConfig
from fastserve.distributed.group import Group
from fastserve.distributed.pipe import Pipe
from fastserve.errors import InvalidArgumentError
from fastserve.loader.load import LoadedModel
from fastserve.models.kv_cache import allocate_kv_cache, kv_block_bytes
from fastserve.worker.attention_choice import AttentionChoice, choose_attention
from fastserve.worker.device import CpuDevice, Gpu, memory_advice
from fastserve.worker.memory import PoolSizes, device_kv_bytes, size_pools
from fastserve.worker.request_table import RequestTable
from fastserve.worker.row_inputs import RowInputs, dummy_rows
from fastserve.worker.runner import Runner, RunnerLimits
from fastserve.worker.selftest_process import AttentionSelfTest

GRAPHS_BYTES = 512 * MIB  # CUDA's own memory for some 35 graphs, and their activations
THREAD_BYTES = 64 * MIB  # cuBLAS's for the thread that launches steps: the one measured here is another's


@dataclass(frozen=True, slots=True)
class Started:
    """What a worker runs with."""

    pools: PoolSizes
    kv_cache: torch.Tensor
    runner: Runner
    attention: AttentionChoice


@torch.inference_mode()
def start_runner(
    config: EngineConfig,
    model: LoadedModel,
    device: CpuDevice | Gpu,
    *,
    world: Group,
    pipe: Pipe,
    requests: RequestTable,
    selftest: AttentionSelfTest | None,
    progress: Callable[[str, int, int], None] | None,
) -> Started:
    """Make all that a worker runs plans with; on the device's compute stream.

    Args:
        world: this rank's end of the group of all ranks, which get as many blocks.
        pipe: to the stages beside its own.
        requests: the worker's.
        selftest: the check of the best attention kernels, which began before the weights were loaded.
        progress: called as progress("graphs", done, total) while graphs are captured.
    Raises:
        InvalidArgumentError: the memory does not hold a step of the largest size, or no KV pool or graphs beside it.
    """
    limits = RunnerLimits(
        max_num_tokens=config.scheduler.max_num_batched_tokens,
        max_num_seqs=config.scheduler.max_num_seqs,
        max_model_len=model.max_model_len,
        block_size=config.cache.block_size,
    )
    with device.scope():
        attention = choose_attention(
            config.model.attention_backend,
            model,
            block_size=limits.block_size,
            device=device.torch_device,
            selftest=selftest,
        )
        if isinstance(device, CpuDevice):
            started = _start_on_cpu(
                config, model, device, world=world, pipe=pipe, limits=limits, requests=requests, attention=attention
            )
        else:
            started = _start_on_gpu(
                config, model, device, limits=limits, requests=requests, attention=attention, progress=progress
            )
    device.synchronize()
    return started


def _start_on_cpu(
    config: EngineConfig,
    model: LoadedModel,
    device: CpuDevice,
    *,
    world: Group,
    pipe: Pipe,
    limits: RunnerLimits,
    requests: RequestTable,
    attention: AttentionChoice,
) -> Started:
    block_bytes = kv_block_bytes(model.spec, limits.block_size, model.dtype)
    of_all_ranks = int(world.all_gather(torch.tensor([block_bytes])).sum())
    pools = size_pools(config.cache, block_bytes=of_all_ranks, max_model_len=model.max_model_len)
    pools = _smallest(replace(pools, block_bytes=block_bytes), world)
    kv_cache = allocate_kv_cache(
        model.spec, pools.num_device_blocks, limits.block_size, model.dtype, device.torch_device
    )
    runner = Runner(
        model.decoder,
        kv_cache,
        device,
        limits,
        requests,
        backend=attention.backend,
        pipe=pipe,
        is_alone=world.size == 1,
    )
    return Started(pools, kv_cache, runner, attention)


def _smallest(pools: PoolSizes, world: Group) -> PoolSizes:
    """What every rank has room for."""
    sizes = torch.tensor([pools.num_device_blocks, pools.num_host_blocks], dtype=torch.int64)
    num_device, num_host = world.all_gather(sizes).amin(0).tolist()
    return PoolSizes(num_device, num_host, pools.block_bytes)


def _start_on_gpu(
    config: EngineConfig,
    model: LoadedModel,
    device: Gpu,
    *,
    limits: RunnerLimits,
    requests: RequestTable,
    attention: AttentionChoice,
    progress: Callable[[str, int, int], None] | None,
) -> Started:
    spec, block_size = model.spec, limits.block_size
    block = allocate_kv_cache(spec, 1, block_size, model.dtype, device.torch_device)
    with memory_advice(
        f"the memory of the GPU does not hold a step of {limits.max_num_tokens} tokens in {limits.max_num_seqs} requests"
        f" beside the weights: lower --max-num-batched-tokens or --max-num-seqs"
    ):
        runner = Runner(model.decoder, block, device, limits, requests, backend=attention.backend)
        device.begin_peak()
        runner.time(_largest_step(limits, spec.vocab_size))
    memory = device.memory()
    graphs_bytes = GRAPHS_BYTES + 4 * limits.max_num_seqs * spec.vocab_size  # with the logits that they write
    left = device_kv_bytes(
        memory,
        utilization=config.cache.gpu_memory_utilization,
        later_bytes=THREAD_BYTES + (0 if config.model.enforce_eager else graphs_bytes),
    )
    block_bytes = kv_block_bytes(spec, block_size, model.dtype)
    if left < block_bytes and config.cache.num_gpu_blocks_override is None:
        raise InvalidArgumentError(
            f"the memory of the GPU ({memory.total / GIB:.1f} GiB, {memory.free / GIB:.1f} free) has no room for one KV block"
            f" of {block_bytes} bytes beside weights and a full step ({memory.peak / GIB:.1f} GiB): raise"
            f" --gpu-memory-utilization, lower --max-num-batched-tokens or use a smaller model"
        )
    pools = size_pools(config.cache, block_bytes=block_bytes, max_model_len=model.max_model_len, device_kv_bytes=left)
    device.begin_peak()
    kv_cache = allocate_kv_cache(spec, pools.num_device_blocks, block_size, model.dtype, device.torch_device)
    runner.use_cache(kv_cache)
    if not config.model.enforce_eager:
        with memory_advice(
            "the memory of the GPU does not hold the graphs of decode steps beside the KV pool: lower"
            " --gpu-memory-utilization or --max-num-seqs, or pass --enforce-eager"
        ):
            runner.capture_graphs(
                device, None if progress is None else lambda done, total: progress("graphs", done, total)
            )
    return Started(pools, kv_cache, runner, attention)


def _largest_step(limits: RunnerLimits, vocab_size: int) -> RowInputs:
    """As many tokens and as many logits as a step may have; it leaves the pool, here of one block, as it is."""
    rows = min(limits.max_num_seqs, limits.max_num_tokens)
    share, extra = divmod(limits.max_num_tokens, rows)
    lengths = [min(share + (row < extra), limits.max_model_len) for row in range(rows)]
    return dummy_rows(lengths, lengths, num_decode_rows=0, num_blocks=1, block_size=limits.block_size,
                        vocab_size=vocab_size, write_kv=False)  # fmt: skip
