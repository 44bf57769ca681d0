"""The worker's side of parking: what its transfers measure and report."""

from collections.abc import Iterator

import pytest
import torch

from fastserve._C.offload import Direction
from fastserve.errors import DeviceError
from fastserve.worker.transfers import Transfers


@pytest.fixture
def transfers() -> Iterator[Transfers]:
    """Pools of 8 blocks of 4 KiB, hashed when they move."""
    made = Transfers(torch.zeros(8, 4096, dtype=torch.uint8), 8, canary=True)
    yield made
    made.close()


def test_measuring_the_link_gives_rates_and_leaves_nothing_to_report(transfers):
    transfers.measure_link()
    assert all(1e6 < rate < 1e12 for rate in transfers.link_bytes_per_s())
    assert transfers.engine.counters(Direction.HOST_TO_DEVICE).num_transfers > 1
    assert transfers.engine.num_in_flight() == 0
    assert not transfers.take_results().ids.size
    assert transfers.engine.num_mismatches == 0


def test_a_link_that_does_not_copy_is_refused_at_start(transfers):
    transfers.engine.inject_failure(Direction.HOST_TO_DEVICE, 1)
    with pytest.raises(DeviceError, match="KV cannot be copied between the GPU and the host: injected failure"):
        transfers.measure_link()


def test_without_a_host_pool_there_is_no_link():
    transfers = Transfers(torch.zeros(8, 4096, dtype=torch.uint8), 0, canary=False)
    transfers.measure_link()
    assert transfers.link_bytes_per_s() == (0.0, 0.0)
    assert transfers.device_fault == ""
