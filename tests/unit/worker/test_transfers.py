"""The worker's side of parking: what its transfers measure and report."""

from collections.abc import Iterator

import pytest
import torch

from fastserve._C.offload import Direction, HostArena
from fastserve.errors import DeviceError
from fastserve.worker import transfers as transfers_module
from fastserve.worker.transfers import Transfers
from tests import core_internals

GPU = torch.device("cuda", 0)


@pytest.fixture
def transfers() -> Iterator[Transfers]:
    """Pools of 8 blocks of 4 KiB, hashed when they move."""
    made = Transfers(torch.zeros(8, 4096, dtype=torch.uint8), 8, canary=True)
    yield made
    made.close()


def test_measuring_the_link_gives_rates_and_leaves_nothing_to_report(transfers):
    transfers.measure_link()
    assert all(1e6 < rate < 1e12 for rate in transfers.link_bytes_per_s())
    assert core_internals.counters(transfers.engine, Direction.HOST_TO_DEVICE).num_transfers > 1
    assert core_internals.num_in_flight(transfers.engine) == 0
    assert not transfers.take_results().ids.size
    assert core_internals.num_mismatches(transfers.engine) == 0


def test_a_link_that_does_not_copy_is_refused_at_start(transfers):
    core_internals.FaultInjector(transfers.engine).inject_failure(Direction.HOST_TO_DEVICE, 1)
    with pytest.raises(DeviceError, match="KV cannot be copied between the GPU and the host: injected failure"):
        transfers.measure_link()


def test_without_a_host_pool_there_is_no_link():
    transfers = Transfers(torch.zeros(8, 4096, dtype=torch.uint8), 0, canary=False)
    transfers.measure_link()
    assert transfers.link_bytes_per_s() == (0.0, 0.0)
    assert transfers.device_fault == ""


@pytest.fixture
def no_page_locking(monkeypatch) -> None:
    """A driver that locks no memory."""

    def arena(num_blocks: int, block_bytes: int, *, pin: bool = False, device: int = 0) -> HostArena:
        if pin:
            raise DeviceError("the driver does not page-lock 1024 MiB of host memory")
        return HostArena(num_blocks, block_bytes)

    monkeypatch.setattr(transfers_module, "HostArena", arena)


def test_a_host_pool_that_cannot_be_page_locked_is_refused_with_the_remedy(no_page_locking):
    with pytest.raises(DeviceError, match=r"does not page-lock 1024 MiB.*--host-kv-gib.*--allow-pageable-host-kv"):
        transfers_module._host_arena(4, 4096, GPU, allow_pageable=False)


def test_an_ordinary_host_pool_is_taken_with_a_warning_where_that_is_allowed(no_page_locking, caplog):
    with caplog.at_level("WARNING", logger="fastserve"):
        assert not transfers_module._host_arena(4, 4096, GPU, allow_pageable=True).pinned
    assert "not page-locked" in caplog.text
