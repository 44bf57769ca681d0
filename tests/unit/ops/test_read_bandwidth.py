"""The read that benchmarks compare with reads everything."""

import pytest
import torch

from fastserve._C import kernels


@pytest.mark.parametrize("size", [0, 1, 3, 127, 128, 1000, 300_001])
@pytest.mark.parametrize("begin", [0, 1])
def test_read_bandwidth_reads_every_element_once(device, size, begin):
    memory = torch.full((begin + size,), torch.nan)
    memory[begin:] = 1
    for parts in [1, 3, 64]:
        out = torch.full((parts,), torch.nan)
        kernels.read_bandwidth(memory[begin:], out)
        assert out.sum() == size
