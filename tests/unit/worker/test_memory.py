"""Pool sizes from gibibytes or from block counts."""

import pytest

from fastserve._C.kv import MAX_BLOCKS
from fastserve.config import CacheConfig
from fastserve.errors import InvalidArgumentError
from fastserve.worker.device import DeviceMemory
from fastserve.worker.memory import device_kv_bytes, size_pools


def test_gibibytes_become_blocks():
    sizes = size_pools(CacheConfig(kv_gib=1.0, host_kv_gib=0.5), block_bytes=1 << 20, max_model_len=2048)
    assert (sizes.num_device_blocks, sizes.num_host_blocks) == (1024, 512)


def test_block_counts_win_over_gibibytes():
    cache = CacheConfig(num_gpu_blocks_override=200, num_host_blocks_override=7)
    sizes = size_pools(cache, block_bytes=1 << 20, max_model_len=2048)
    assert (sizes.num_device_blocks, sizes.num_host_blocks) == (200, 7)


def test_tiny_blocks_fill_a_pool_up_to_the_bound_of_the_kv_manager():
    sizes = size_pools(CacheConfig(kv_gib=64.0, host_kv_gib=64.0), block_bytes=256, max_model_len=2048)
    assert (sizes.num_device_blocks, sizes.num_host_blocks) == (MAX_BLOCKS, MAX_BLOCKS)


@pytest.mark.parametrize("name", ["num_gpu_blocks_override", "num_host_blocks_override"])
def test_more_blocks_than_the_kv_manager_takes_are_refused_before_they_are_allocated(name):
    cache = CacheConfig(**{"num_gpu_blocks_override": 200, name: MAX_BLOCKS + 1})
    with pytest.raises(InvalidArgumentError, match=f"{name} must be at most {MAX_BLOCKS} blocks, got {MAX_BLOCKS + 1}"):
        size_pools(cache, block_bytes=4096, max_model_len=2048)


def test_a_host_pool_of_zero_is_allowed():
    assert size_pools(CacheConfig(host_kv_gib=0.0), block_bytes=4096, max_model_len=2048).num_host_blocks == 0


def test_a_device_pool_that_cannot_hold_one_request_is_refused_with_the_remedy():
    with pytest.raises(InvalidArgumentError, match=r"128 blocks.*got 100 blocks.*--kv-gib"):
        size_pools(CacheConfig(num_gpu_blocks_override=100), block_bytes=4096, max_model_len=2048)


def test_the_pool_of_a_gpu_gets_what_is_left():
    gib = 1 << 30
    memory = DeviceMemory(total=80 * gib, free=50 * gib, reserved=28 * gib, peak=20 * gib)
    left = device_kv_bytes(memory, utilization=0.9, later_bytes=gib)
    assert left == 72 * gib - 2 * gib - 20 * gib - gib
    sizes = size_pools(CacheConfig(), block_bytes=1 << 20, max_model_len=2048, device_kv_bytes=left)
    assert sizes.num_device_blocks == left >> 20


def test_a_full_gpu_is_refused_with_the_remedy():
    with pytest.raises(InvalidArgumentError, match=r"got 0 blocks.*--gpu-memory-utilization"):
        size_pools(CacheConfig(), block_bytes=1 << 20, max_model_len=2048, device_kv_bytes=-5)


def test_the_host_pool_follows_the_machine_by_default(monkeypatch):
    monkeypatch.setattr("fastserve.worker.memory.available_host_bytes", lambda: 40 << 20)

    def host_blocks(**cache: object) -> int:
        return size_pools(
            CacheConfig(**cache), block_bytes=1 << 20, max_model_len=64, device_kv_bytes=8 << 20
        ).num_host_blocks

    assert host_blocks() == 10, "a quarter of what is free"
    assert host_blocks(num_gpu_blocks_override=4) == 8, "at most twice the device pool"
    assert host_blocks(host_kv_gib=1.0) == 1024
    on_a_cpu = size_pools(CacheConfig(num_gpu_blocks_override=16), block_bytes=1 << 20, max_model_len=64)
    assert on_a_cpu.num_host_blocks == 6, "the device pool of a CPU is host memory"
