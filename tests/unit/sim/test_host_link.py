"""Copies over the simulated link: one at a time per direction, slower while both directions are busy."""

import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.sim import HostLink
from fastserve.sim.host_link import SimulatedLink


def link(**fields: float) -> SimulatedLink:
    return SimulatedLink(
        HostLink(**({"offload_bytes_per_s": 100.0, "upload_bytes_per_s": 50.0, "copy_overhead_s": 0.0} | fields))
    )


def ends(simulated: SimulatedLink) -> dict[int, float]:
    return {copy.id: copy.ended_s for copy in simulated.take_ended()}


def test_copies_of_a_direction_follow_each_other():
    simulated = link()
    simulated.start(1.0, 1, 100.0, to_host=True)
    simulated.start(1.0, 2, 50.0, to_host=True)
    simulated.advance(10.0)
    assert ends(simulated) == pytest.approx({1: 2.0, 2: 2.5})
    assert not simulated.is_busy


def test_both_directions_at_once_share_the_link():
    simulated = link(duplex_share=0.5)
    simulated.start(0.0, 1, 100.0, to_host=True)  # a second alone
    simulated.start(0.0, 2, 100.0, to_host=False)  # two seconds alone
    simulated.advance(10.0)
    assert ends(simulated) == pytest.approx({1: 2.0, 2: 3.0}), "half speed until 2, then the upload alone"


def test_a_full_duplex_link_does_not_care():
    simulated = link(duplex_share=1.0)
    simulated.start(0.0, 1, 100.0, to_host=True)
    simulated.start(0.0, 2, 100.0, to_host=False)
    assert simulated.advance_to_first_end(0.5) == 0.5
    assert simulated.advance_to_first_end(5.0) == pytest.approx(1.0)
    simulated.advance(3.0)
    assert ends(simulated) == pytest.approx({1: 1.0, 2: 2.0})


def test_every_device_brings_a_link_of_its_own():
    simulated = SimulatedLink(HostLink(offload_bytes_per_s=100.0, upload_bytes_per_s=50.0, copy_overhead_s=0.5), 4)
    simulated.start(0.0, 1, 400.0, to_host=True)
    simulated.advance(9.0)
    assert ends(simulated) == pytest.approx({1: 1.5})


def test_the_measured_rate_follows_contention():
    simulated = link(duplex_share=0.5)
    assert simulated.measured_bytes_per_s(to_host=True) == 100.0
    simulated.start(0.0, 1, 100.0, to_host=True)
    simulated.start(0.0, 2, 500.0, to_host=False)
    simulated.advance(5.0)
    assert simulated.measured_bytes_per_s(to_host=True) == pytest.approx(50.0)


def test_tiny_copies_late_in_a_long_run_end():
    simulated = link()
    for i in range(100):
        simulated.start(1e6, i, 1e-9, to_host=i % 2 == 0)
    simulated.advance(1e6 + 1e-3)
    assert len(simulated.take_ended()) == 100


@pytest.mark.parametrize("field", [{"duplex_share": 0.0}, {"upload_bytes_per_s": -1.0}, {"copy_overhead_s": -1.0}])
def test_a_link_out_of_range_is_refused(field):
    with pytest.raises(InvalidArgumentError, match=next(iter(field))):
        link(**field)
