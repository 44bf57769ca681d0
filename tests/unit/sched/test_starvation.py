"""No request starves: see starvation.py for the bound, and for the script that searches for longer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve._C.sched import LatencyModel, Scheduler, SchedulerConfig
from tests.unit.sched.starvation import Search


@settings(max_examples=200, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_random_load_makes_a_request_wait_longer_than_the_bound(seed: int) -> None:
    assert Search(seed).run() <= 1.0


def test_the_search_notices_a_request_that_starves() -> None:
    """A check that cannot fail is a defect: without promotion a request starves within a few runs."""
    shares = []
    for seed in range(200):
        search = Search(seed)
        if search.policy not in ("learned", "skip-join-mlfq"):
            continue
        never = search.config | {"starvation_limit_s": 1e9, "max_pause_s": 1e9}
        search.scheduler = Scheduler(SchedulerConfig(**never), search.kv, LatencyModel())
        try:
            shares.append(search.run())
        except AssertionError:
            return
    pytest.fail(f"no request starved without promotion: {max(shares)}")
