"""The invariants of the scheduler as properties of random runs; see docs/scheduling.md for their numbers."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastserve._C.sched import FinishReason
from tests import core_internals
from tests.unit.sched.fake_engine import FakeEngine

POLICIES = ("skip-join-mlfq", "learned", "mlfq", "fcfs", "priority", "srpt")


@st.composite
def setups(draw: st.DrawFn) -> dict:
    num_device_blocks = draw(st.integers(2, 14))
    return {
        "policy": draw(st.sampled_from(POLICIES)),
        "num_device_blocks": num_device_blocks,
        "num_host_blocks": draw(st.sampled_from((0, 0, 3, 8, 40))),
        "depth": draw(st.sampled_from((1, 2))),
        "max_num_seqs": draw(st.integers(1, 6)),
        "max_num_batched_tokens": draw(st.integers(6, 40)),
        "max_prefill_chunk_tokens": draw(st.integers(1, 16)),
        "max_model_len": draw(st.integers(8, 64)),
        "preemption_mode": draw(st.sampled_from(("auto", "swap", "recompute"))),
        "starvation_limit_s": draw(st.sampled_from((0.03, 0.3, 3.0))),
        "reserve_iterations": draw(st.integers(0, 8)),
        "upload_margin": draw(st.sampled_from((0.0, 0.05, 1.0))),
        "max_parks_per_request": draw(st.sampled_from((1, 2, 64))),
        "thrash_parks_per_finish": draw(st.sampled_from((0.1, 8.0))),
        "block_bytes": draw(st.sampled_from((0.0, 1e6))),
        "proactive_offload": draw(st.booleans()),
        "write_through": draw(st.booleans()),
        "prefix_caching": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def add_random(engine: FakeEngine, rng: random.Random, request_id: int, prefixes: list[list[int]]) -> None:
    most = min(engine.max_model_len - 1, engine.pool_tokens)
    prompt = rng.choice(prefixes)[: rng.randrange(0, most)] + [
        rng.randrange(40) for _ in range(rng.randrange(1, most + 1))
    ]
    options = {}
    if rng.random() < 0.2:
        options["deadline_s"] = engine.now_s + rng.random() * 0.5
    if rng.random() < 0.3:
        options["priority"] = rng.randrange(-2, 3)
    if rng.random() < 0.2:
        options["ignore_eos"] = True
    engine.add(request_id, prompt[:most], rng.randrange(1, 20), **options)


def disturb(engine: FakeEngine, rng: random.Random) -> None:
    live = engine.live()
    if not live or rng.random() < 0.5:
        return
    victim = rng.choice(live)
    what = rng.randrange(5)
    if what == 0:
        num_outputs = engine.scheduler.explain(victim, engine.now_s)["output_tokens"]
        if num_outputs and rng.random() < 0.5:
            engine.clients[victim].stopped = True
            assert engine.scheduler.stop(victim, rng.randint(1, num_outputs), engine.now_s)
        else:
            assert engine.scheduler.abort(victim, engine.now_s)
    elif what in (1, 2):
        core_internals.park(engine.scheduler, victim, what == 1, engine.now_s)
    elif what == 3:
        core_internals.unpark(engine.scheduler, victim, engine.now_s)
    engine.verify()
    engine.take_events()


def random_run(setup: dict, *, turns: int = 40, check: bool = True, fail_steps: float = 0.0) -> FakeEngine:
    engine = FakeEngine(check=check, **setup)
    engine.fail_steps = fail_steps
    rng = random.Random(setup["seed"])
    engine.fail_transfers = rng.choice((0.0, 0.0, 0.3, 1.0))
    engine.end_transfers = rng.choice((0.1, 0.5, 1.0))
    engine.fail_samples = rng.choice((0.0, 0.0, 0.01))
    prefixes = [[rng.randrange(40) for _ in range(64)] for _ in range(2)]
    calm = rng.random() < 0.4
    next_id = 0
    for _ in range(turns):
        while rng.random() < 0.35:
            add_random(engine, rng, next_id, prefixes)
            next_id += 1
        if not calm:
            disturb(engine, rng)
        engine.turn(iteration_s=rng.choice((0.001, 0.01, 0.05)))
    for request_id in engine.live():
        core_internals.unpark(engine.scheduler, request_id, engine.now_s)
    engine.fail_transfers = min(engine.fail_transfers, 0.3)
    engine.end_transfers = 0.5
    engine.drain(max_turns=300 + 60 * sum(c.limit for c in engine.clients.values() if c.reason is None))
    return engine


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(setup=setups())
def test_random_runs_keep_every_invariant_and_give_every_request_its_own_tokens(setup: dict) -> None:
    engine = random_run(setup)
    assert all(client.reason is not None for client in engine.clients.values())


def stages_run(setup: dict, num_stages: int, fail_steps: float) -> FakeEngine:
    engine = random_run(setup | {"num_stages": num_stages}, fail_steps=fail_steps)
    assert all(client.reason is not None for client in engine.clients.values())
    return engine


STAGES = {"setup": setups(), "num_stages": st.integers(2, 5), "fail_steps": st.sampled_from((0.0, 0.0, 0.02))}


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(**STAGES)
def test_stages_have_disjoint_plans_and_give_every_request_its_own_tokens(**given: Any) -> None:
    stages_run(**given)


@pytest.mark.slow
def test_many_steps_of_stages_keep_every_invariant() -> None:
    steps = chunks_ahead = 0

    @settings(max_examples=900, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(**STAGES)
    def run(**given: Any) -> None:
        nonlocal steps, chunks_ahead
        engine = stages_run(**given)
        steps += len(engine.plans)
        chunks_ahead += engine.num_chunks_ahead

    run()
    assert steps >= 100_000
    assert chunks_ahead >= 1_000


@settings(max_examples=20, deadline=None, derandomize=True)
@given(setup=setups())
def test_the_same_trace_gives_the_same_plans(setup: dict) -> None:
    first, second = random_run(setup, check=False), random_run(setup, check=False)
    assert first.plans == second.plans


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("host_blocks", [0, 64])
def test_one_level_with_an_endless_quantum_is_fcfs(depth: int, host_blocks: int) -> None:
    for seed in range(8):
        setup = {"num_device_blocks": 12, "num_host_blocks": host_blocks, "depth": depth, "max_num_seqs": 4,
                 "max_num_batched_tokens": 24, "max_prefill_chunk_tokens": 8, "max_model_len": 40, "seed": seed}  # fmt: skip
        runs = []
        for policy in ({"policy": "fcfs"}, {"policy": "skip-join-mlfq", "num_levels": 1, "first_quantum_s": 1e9}):
            engine = FakeEngine(check=False, **setup, **policy)
            rng = random.Random(seed)
            for request_id in range(30):
                engine.add(request_id, [rng.randrange(40) for _ in range(rng.randrange(1, 30))], rng.randrange(1, 12))
                engine.turn()
            engine.drain(max_turns=3000)
            runs.append(engine.plans)
        assert runs[0] == runs[1]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(setup=setups())
def test_learned_is_first_come_first_served_where_nothing_is_learned(setup: dict) -> None:
    plans = []
    for policy in ("priority", "learned"):
        options = {"min_length_observations": 1_000} if policy == "learned" else {}
        plans.append(random_run(setup | {"policy": policy} | options, check=False).plans)
    assert plans[0] == plans[1]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), slots=st.integers(1, 8), policy=st.sampled_from(POLICIES))
def test_a_ready_request_that_fits_is_picked(seed: int, slots: int, policy: str) -> None:
    engine = FakeEngine(
        num_device_blocks=1000, num_host_blocks=0, max_num_seqs=slots, max_num_batched_tokens=4096, policy=policy
    )
    rng = random.Random(seed)
    for request_id in range(20):
        engine.add(request_id, [rng.randrange(40) for _ in range(rng.randrange(1, 60))], rng.randrange(1, 12))
        ready = len(engine.live())
        assert engine.turn().num_rows == min(slots, ready)
    engine.drain(max_turns=2000)


def test_a_failed_sample_fails_its_request_alone() -> None:
    engine = FakeEngine(num_device_blocks=20, num_host_blocks=0, depth=1)
    engine.add(1, [1, 2, 3], 5, ignore_eos=True)
    engine.add(2, [4, 5, 6], 5, ignore_eos=True)
    plan = engine.scheduler.schedule(0.0)
    engine.scheduler.commit(plan.step, np.array([-1, 9], np.int32), 0.01, 0.01)
    events = engine.scheduler.take_events()
    reasons = dict(zip(events.request_ids.tolist(), events.finish_reasons.tolist(), strict=True))
    assert reasons == {1: FinishReason.ERROR, 2: FinishReason.NONE}
