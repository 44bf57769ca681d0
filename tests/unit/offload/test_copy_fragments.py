"""Ranges of bytes go to the same places of another buffer."""

import numpy as np
import pytest
import torch

from fastserve._C import InvalidArgumentError
from fastserve._C.offload import copy_fragments

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or torch without CUDA"),
    ],
)


def counts(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def assert_the_ranges_alone_arrive(device, offsets, sizes, *, begin=0):
    """Copy them from pinned memory, from byte `begin` of a buffer on, to a buffer of zeros on `device`."""
    num_bytes = max((offset + size for offset, size in zip(offsets, sizes, strict=True)), default=0) + 50
    source = torch.randint(1, 256, (begin + num_bytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    source = (source.pin_memory() if device == "cuda" else source)[begin:]
    target = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else 0
    copy_fragments(source, target, counts(*offsets), counts(*sizes), stream=stream)
    expected = torch.zeros(num_bytes, dtype=torch.uint8)
    for offset, size in zip(offsets, sizes, strict=True):
        expected[offset : offset + size] = source[offset : offset + size]
    assert torch.equal(target.cpu(), expected)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("offsets, sizes", [((0, 64, 5000), (16, 1000, 9000)), ((3, 40), (7, 5001)), ((), ())])
def test_the_ranges_arrive_and_nothing_else(device, offsets, sizes):
    assert_the_ranges_alone_arrive(device, offsets, sizes)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("begin", [0, 1, 4])
def test_ranges_of_every_size_and_alignment_arrive(device, begin):
    sizes = [16, 1, 15, 4096, 2048, 511, 0, 2064, 8000, 31 << 10] * 8
    offsets, at = [], 0
    for index, size in enumerate(sizes):
        at = (at + 31) // 16 * 16 + (index + index // 10) % 16
        offsets.append(at)
        at += size
    assert_the_ranges_alone_arrive(device, offsets, sizes, begin=begin)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_more_ranges_than_one_launch_takes_arrive(device):
    many = range(140)
    last = 100_001  # cut into shares
    assert_the_ranges_alone_arrive(device, [*(i * 4096 for i in many), 580_000], [*(16 + 16 * i for i in many), last])


@pytest.mark.parametrize("offset, size", [(-1, 2), (0, 101), (100, 1), (2**62, 2**62), (5, -1)])
def test_a_range_outside_is_refused(offset, size):
    buffer = torch.zeros(100, dtype=torch.uint8)
    with pytest.raises(InvalidArgumentError, match="must lie within 100 bytes"):
        copy_fragments(buffer, torch.zeros_like(buffer), counts(offset), counts(size))


def test_buffers_of_two_sizes_are_refused():
    with pytest.raises(InvalidArgumentError, match="one size"):
        copy_fragments(torch.zeros(4, dtype=torch.uint8), torch.zeros(5, dtype=torch.uint8), counts(), counts())
