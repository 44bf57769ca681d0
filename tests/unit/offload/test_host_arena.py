"""HostArena seen from Python: sizes, views and their lifetime."""

import gc
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch

from fastserve._C import DeviceError, InvalidArgumentError
from fastserve._C.offload import HostArena


def test_numpy_sees_a_zeroed_writable_view_of_the_arena():
    arena = HostArena(3, 1000)
    view = np.asarray(arena)
    assert view.shape == (3, 1000)
    assert view.dtype == np.uint8
    assert not view.any()
    view[2, 999] = 7
    assert np.asarray(arena)[2, 999] == 7
    assert (arena.num_blocks, arena.block_bytes, arena.num_bytes) == (3, 1000, 3000)


def test_torch_shares_the_memory_of_the_arena():
    arena = HostArena(num_blocks=2, block_bytes=64, num_threads=1)
    tensor = torch.from_numpy(np.asarray(arena)).view(torch.float32)
    tensor.fill_(1.0)
    assert np.asarray(arena)[1, 63] == 0x3F


def test_a_view_keeps_the_arena_alive():
    view = np.asarray(HostArena(4, 1 << 20))
    gc.collect()
    view[:] = 5
    assert int(view.sum(dtype=np.int64)) == 5 * view.size


@pytest.mark.parametrize(("num_blocks", "block_bytes"), [(0, 1), (1, 0), (-1, 8), (1 << 40, 1 << 40)])
def test_senseless_sizes_are_refused(num_blocks, block_bytes):
    with pytest.raises(InvalidArgumentError):
        HostArena(num_blocks, block_bytes)


def test_more_memory_than_there_is_is_refused_with_a_remedy():
    with pytest.raises(DeviceError, match=r"asks for .* GiB but .* GiB are available .* ask for fewer host blocks"):
        HostArena(1 << 20, 1 << 30)


@pytest.mark.parametrize("prefault", [True, False])
def test_pages_are_backed_at_once_or_as_they_are_used(prefault):
    process = psutil.Process()
    before = process.memory_info().rss
    arena = HostArena(256, 1 << 20, prefault=prefault)
    grown = process.memory_info().rss - before
    assert grown > 200 << 20 if prefault else grown < 50 << 20
    assert not np.asarray(arena)[255].any()


UNDER_A_LIMIT = """
import resource
from fastserve._C import DeviceError
from fastserve._C.offload import HostArena
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.RLIM_INFINITY))
try:
    HostArena(4, 1 << 30, prefault=False)
except DeviceError as error:
    print(error)
"""


@pytest.mark.skipif(psutil.virtual_memory().available < 5 << 30, reason="the arena asks for 4 GiB")
def test_arena_that_the_limit_on_addresses_forbids_names_the_limit() -> None:
    done = subprocess.run([sys.executable, "-c", UNDER_A_LIMIT], capture_output=True, text=True, timeout=60, check=True)
    assert "asks for 4 GiB" in done.stdout and "address space, 4 GiB in all (ulimit -v)" in done.stdout
