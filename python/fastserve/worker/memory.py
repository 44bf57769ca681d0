"""Number of KV blocks in the device pool and in the host pool."""

from dataclasses import dataclass

from fastserve._C.kv import MAX_BLOCKS
from fastserve._C.offload import available_host_bytes
from fastserve.config import GIB, CacheConfig
from fastserve.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of a device in bytes: total, free, and torch's peaks of reserved and used memory since `begin_peak`."""

    total: int
    free: int
    reserved: int
    peak: int


@dataclass(frozen=True, slots=True)
class PoolSizes:
    """Blocks per pool and bytes per block."""

    num_device_blocks: int
    num_host_blocks: int
    block_bytes: int


def size_pools(
    cache: CacheConfig,
    *,
    block_bytes: int,
    max_model_len: int,
    device_kv_bytes: int | None = None,
) -> PoolSizes:
    """Size both pools: `host_kv_gib` and on a CPU `kv_gib` (or the overrides) say how large they are, up to MAX_BLOCKS.

    Without `host_kv_gib` the host pool follows the machine, see `CacheConfig.num_host_blocks`. Memory that the device pool
    of a CPU will take is not free.

    Args:
        block_bytes: of all ranks that share the memory; each keeps its part of a block.
        device_kv_bytes: of a GPU, what is left of its memory; None on a CPU.
    Raises:
        InvalidArgumentError: the device pool cannot hold one request of max_model_len tokens, or an override is too large.
    """
    for flag in ("num_gpu_blocks_override", "num_host_blocks_override"):
        if (wanted := getattr(cache, flag) or 0) > MAX_BLOCKS:
            raise InvalidArgumentError(f"{flag} must be at most {MAX_BLOCKS} blocks, got {wanted}: use larger blocks")
    available = int(cache.kv_gib * GIB) if device_kv_bytes is None else max(device_kv_bytes, 0)
    num_device = cache.num_gpu_blocks_override or min(available // block_bytes, MAX_BLOCKS)
    free_bytes = available_host_bytes() - (num_device * block_bytes if device_kv_bytes is None else 0)
    num_host = cache.num_host_blocks(
        num_device_blocks=num_device, block_bytes=block_bytes, free_host_bytes=max(free_bytes, 0)
    )
    num_host = min(num_host, MAX_BLOCKS)
    needed = -(-max_model_len // cache.block_size)
    if num_device < needed:
        raise InvalidArgumentError(
            f"the device KV pool must hold one request of max_model_len = {max_model_len} tokens, that is {needed} blocks of"
            f" {block_bytes} bytes, got {num_device} blocks: raise {_pool_flag(device_kv_bytes)} (or"
            f" --num-gpu-blocks-override) or lower --max-model-len"
        )
    return PoolSizes(num_device, num_host, block_bytes)


def _pool_flag(device_kv_bytes: int | None) -> str:
    return "--kv-gib" if device_kv_bytes is None else "--gpu-memory-utilization"


def device_kv_bytes(memory: DeviceMemory, *, utilization: float, later_bytes: int) -> int:
    """Return the bytes of GPU memory that the KV pool may take; negative when the rest needs more than there is.

    Args:
        memory: after a step of the largest size, with the weights loaded.
        utilization: share of the whole memory that this process may use.
        later_bytes: what will be allocated besides the pool.
    """
    outside = memory.total - memory.free - memory.reserved  # other processes, CUDA itself
    return int(memory.total * utilization) - outside - memory.peak - later_bytes
