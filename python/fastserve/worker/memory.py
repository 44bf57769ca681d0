"""How many KV blocks the device and the host pool get."""

from dataclasses import dataclass

from fastserve.config import GIB, CacheConfig
from fastserve.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class PoolSizes:
    """Blocks per pool and bytes per block."""

    num_device_blocks: int
    num_host_blocks: int
    block_bytes: int


def size_pools(cache: CacheConfig, *, block_bytes: int, max_model_len: int) -> PoolSizes:
    """Size both pools on a CPU, where `kv_gib` and `host_kv_gib` (or the overrides) say how large they are.

    Raises:
        InvalidArgumentError: the device pool cannot hold one request of max_model_len tokens.
    """
    num_device = cache.num_gpu_blocks_override or int(cache.kv_gib * GIB) // block_bytes
    num_host = cache.num_host_blocks_override
    if num_host is None:
        num_host = int(cache.host_kv_gib * GIB) // block_bytes
    needed = -(-max_model_len // cache.block_size)
    if num_device < needed:
        raise InvalidArgumentError(
            f"the device KV pool must hold one request of max_model_len = {max_model_len} tokens, that is {needed} blocks of"
            f" {block_bytes} bytes, got {num_device} blocks: raise --kv-gib (or --num-gpu-blocks-override) or lower --max-model-len"
        )
    return PoolSizes(num_device, num_host, block_bytes)
