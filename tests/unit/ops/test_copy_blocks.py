"""ops.copy_blocks and ops.checksum_blocks."""

import numpy as np
import pytest
import torch

from fastserve import ops
from fastserve.errors import InvalidArgumentError


def ids(*values):
    return np.array(values, dtype=np.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
@pytest.mark.parametrize("block_shape", [(1,), (3, 5), (2, 2, 2, 16, 64), (300_001,)])
def test_blocks_move_between_tensors_and_nothing_else_changes(device, dtype, block_shape):
    src = torch.randint(0, 100, (7, *block_shape)).to(dtype)
    dst = torch.randint(0, 100, (5, *block_shape)).to(dtype)
    expected = dst.clone()
    expected[[4, 0, 2]] = src[[1, 6, 1]]
    ops.copy_blocks(src, dst, ids(1, 6, 1), ids(4, 0, 2))
    assert torch.equal(dst, expected)


def test_blocks_move_within_one_tensor(device):
    cache = torch.arange(40.0).view(10, 4)
    expected = cache.clone()
    expected[[7, 3]] = cache[[0, 1]]
    ops.copy_blocks(cache, cache, ids(0, 1), ids(7, 3))
    assert torch.equal(cache, expected)


@pytest.mark.parametrize("size", [1, 8, 63, 4096, 4097, 40_000, 300_000])
@pytest.mark.parametrize("begin", [0, 3])
def test_blocks_of_any_size_and_alignment_are_copied_and_hashed(device, size, begin):
    memory = torch.randint(0, 256, (begin + 9 * size,), dtype=torch.uint8)
    cache, before = memory[begin:].view(9, size), memory[:begin].clone()
    expected = cache.clone()
    expected[[7, 1, 8]] = expected[[0, 4, 4]]
    ops.copy_blocks(cache, cache, ids(0, 4, 4), ids(7, 1, 8))
    assert torch.equal(cache, expected)
    assert torch.equal(memory[:begin], before)
    hashed = ids(8, 0, 7, 4, 1, 2)
    assert ops.checksum_blocks(cache, hashed).tolist() == ops.checksum_blocks(expected.cpu(), hashed).tolist()


def test_more_blocks_than_one_launch_takes(device):
    cache = torch.randint(0, 256, (2000, 16), dtype=torch.uint8)
    low = np.arange(1000, dtype=np.int32)
    high = 1999 - low
    ops.copy_blocks(cache, cache, low, high)
    assert torch.equal(cache[1000:], cache[:1000].flip(0))
    sums = ops.checksum_blocks(cache, low).tolist()
    assert sums == ops.checksum_blocks(cache, high).tolist() == ops.checksum_blocks(cache.cpu(), low).tolist()
    assert len(set(sums)) == 1000


def test_nothing_to_copy_is_fine(device):
    ops.copy_blocks(torch.zeros(2, 3), torch.zeros(2, 3), ids(), ids())
    ops.copy_blocks(torch.zeros(2, 0), torch.zeros(2, 0), ids(0), ids(1))
    assert ops.checksum_blocks(torch.zeros(2, 3), ids()).shape == (0,)


@pytest.mark.parametrize(
    ("src_ids", "dst_ids", "message"),
    [
        (ids(0, 10), ids(1, 2), "src_ids must be in"),
        (ids(0, 1), ids(-1, 2), "dst_ids must be in"),
        (ids(0, 1), ids(2, 2), "each block once"),
        (ids(0, 1), ids(1, 2), "both read and written"),
        (ids(0, 1), ids(2), "dst_ids must have shape"),
        (np.array([0]), ids(2), "src_ids must be int32"),
    ],
)
def test_ids_that_do_not_fit_are_refused(src_ids, dst_ids, message):
    cache = torch.zeros(10, 4)
    with pytest.raises(InvalidArgumentError, match=message):
        ops.copy_blocks(cache, cache, src_ids, dst_ids)


def test_tensors_that_do_not_fit_are_refused():
    cache = torch.zeros(10, 4)
    with pytest.raises(InvalidArgumentError, match="not overlap"):
        ops.copy_blocks(cache, cache[1:], ids(0), ids(5))
    with pytest.raises(InvalidArgumentError, match="one dtype and size"):
        ops.copy_blocks(cache, torch.zeros(10, 5), ids(0), ids(5))
    with pytest.raises(InvalidArgumentError, match="contiguous"):
        ops.copy_blocks(cache, torch.zeros(4, 10).T, ids(0), ids(5))
    with pytest.raises(InvalidArgumentError, match="stream"):
        ops.copy_blocks(cache, cache.clone(), ids(0), ids(5), stream=7)


def test_a_checksum_sees_every_byte_and_only_its_block(device):
    cache = torch.randint(0, 255, (4, 3, 1000), dtype=torch.uint8)
    before = ops.checksum_blocks(cache, ids(2, 0, 2))
    assert before[0] == before[2] != before[1]
    for byte in (0, 1, 1499, 2999):
        changed = cache.clone()
        changed.view(4, -1)[2, byte] ^= 1
        after = ops.checksum_blocks(changed, ids(2, 0))
        assert after[0] != before[0]
        assert after[1] == before[1]


def test_a_copied_block_keeps_its_checksum_on_every_device(device, dtype):
    cache = torch.arange(6 * 1000).view(6, 1000).to(dtype)
    ops.copy_blocks(cache, cache, ids(1), ids(4))
    sums = ops.checksum_blocks(cache, ids(1, 4, 0))
    assert sums[0] == sums[1] != sums[2]
    if dtype == torch.float32:
        assert sums[0] == -8607805321760016086  # once computed; machines that exchange blocks must agree on it


def test_checksums_of_blocks_out_of_range_are_refused():
    with pytest.raises(InvalidArgumentError, match="ids must be in"):
        ops.checksum_blocks(torch.zeros(3, 4), ids(3))
