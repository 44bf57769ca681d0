"""Counters that preemption must not distort. That they follow from the plans, `FakeEngine.drain` checks in every run."""

import pytest

from tests import core_internals
from tests.unit.sched.fake_engine import FakeEngine
from tests.unit.sched.test_invariants import POLICIES


def run_parking_often(engine: FakeEngine) -> None:
    """Run to the end, parking all requests every few turns."""
    turns = 0
    while engine.scheduler.has_unfinished:
        engine.turn()
        turns += 1
        # Seldom enough that a dropped sequence makes progress: it computes its longest context within the turns between.
        if turns % 5 == 0 and engine.scheduler.stats().parks < 300:
            for request_id in engine.live():
                core_internals.park(engine.scheduler, request_id, False, engine.now_s)
    engine.drain(1000)
    assert engine.scheduler.stats().parks >= 100


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("num_host_blocks", [0, 12, 200])
@pytest.mark.parametrize("policy", POLICIES)
def test_prefix_cache_counts_each_prompt_once_though_it_is_parked_hundreds_of_times(policy, num_host_blocks, depth):
    engine = FakeEngine(
        block_size=16,
        num_device_blocks=33,
        num_host_blocks=num_host_blocks,
        policy=policy,
        depth=depth,
        check=False,
        first_quantum_s=0.01,
        starvation_limit_s=0.1,
    )
    for i in range(4):
        prompt = [i] + [(i * 11 + j * j) % 40 for j in range(99)]
        engine.add(i, prompt, 240, ignore_eos=True)
    run_parking_often(engine)
    stats = engine.scheduler.stats()
    assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (400, 0)


def test_hits_are_the_cached_tokens_that_requests_report():
    engine = FakeEngine(num_device_blocks=60, num_host_blocks=20, check=False, max_num_seqs=2)
    shared = [j % 40 for j in range(17)]
    for i in range(12):
        engine.add(i, [*shared, i], 60, ignore_eos=True)
    run_parking_often(engine)
    stats = engine.scheduler.stats()
    assert stats.prefix_cache_queries == 12 * 18
    assert stats.prefix_cache_hits == sum(engine.cached.values()) >= 9 * 16
