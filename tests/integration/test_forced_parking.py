"""Parking, moving and resuming never changes a token, and damaged KV never yields one."""

import time
from dataclasses import replace

import numpy as np
import pytest

from fastserve._C.offload import Direction
from fastserve.engine.core import EngineCore
from fastserve.types import SamplingParams
from tests import core_internals
from tests.core_internals import FaultInjector
from tests.integration.engine_driver import GREEDY, Driver, engine_config, park_every, random_prompts, run_prompts

TIMED = ("skip-join-mlfq", "learned", "mlfq")
POLICIES = (*TIMED, "fcfs", "priority")
PROMPTS = random_prompts(10)
SEEDED = SamplingParams(temperature=0.8, top_p=0.9, top_k=40, seed=7, max_tokens=24, ignore_eos=True,
                        repetition_penalty=1.1, frequency_penalty=0.2)  # fmt: skip


@pytest.fixture(scope="module")
def unparked() -> list[list[int]]:
    return run_prompts(PROMPTS)


def delay_copies(core: EngineCore) -> None:
    FaultInjector(core.executor.worker.transfers.engine).inject_random_delay(0.004, 1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("k", [1, 2, 7])
def test_tokens_are_the_same_when_every_request_is_parked_every_k_steps(unparked, policy, k):
    cores = []

    def prepare(core: EngineCore) -> None:
        cores.append(core)
        delay_copies(core)

    tokens = run_prompts(
        PROMPTS, between_steps=park_every(k), prepare=prepare, scheduling_policy=policy, num_gpu_blocks_override=16
    )
    assert tokens == unparked
    engine, stats = cores[0].executor.worker.transfers.engine, cores[0].scheduler.stats()
    assert stats.offload_blocks > 0
    assert stats.upload_blocks > 0
    assert core_internals.num_verified(engine) >= stats.upload_blocks  # hashes at park and at resume were compared
    assert core_internals.num_mismatches(engine) == 0


@pytest.mark.parametrize("mode", ["swap", "recompute"])
def test_biases_and_banned_sequences_outlast_parking(mode):
    sampling = replace(SEEDED, logit_bias={i: 3.0 for i in range(40)}, allowed_token_ids=tuple(range(80)))
    bans = ((7,), *((first, second) for first in range(40) for second in range(0, 40, 3)))
    plain = run_prompts(PROMPTS, sampling, bad_word_ids=bans, async_scheduling=False)
    assert plain != run_prompts(PROMPTS, sampling)
    assert run_prompts(PROMPTS, sampling, between_steps=park_every(8), preemption_mode=mode, bad_word_ids=bans) == plain
    assert run_prompts(PROMPTS[3:4], sampling, bad_word_ids=bans) == plain[3:4]


@pytest.mark.parametrize("async_scheduling", [True, False])
@pytest.mark.parametrize("mode", ["swap", "recompute", "auto"])
def test_tokens_are_the_same_in_every_preemption_mode(unparked, mode, async_scheduling):
    # Recomputing the longest context takes three chunks, so parking more often than that would never let it end.
    tokens = run_prompts(PROMPTS, between_steps=park_every(8), preemption_mode=mode, async_scheduling=async_scheduling)
    assert tokens == unparked


def test_tokens_are_the_same_when_memory_is_short(unparked):
    assert run_prompts(PROMPTS, num_gpu_blocks_override=16) == unparked


def test_tokens_are_the_same_without_a_host_pool(unparked):
    assert run_prompts(PROMPTS, num_gpu_blocks_override=16, num_host_blocks_override=0) == unparked


# Two steps compute only the first chunk of a dropped sequence again. Where time changes the order, requests whose KV has
# room on the host get scheduled; under fcfs and priority they may wait forever for those that start again and again.
@pytest.mark.parametrize(("policy", "k"), [*((policy, 2) for policy in TIMED), *((policy, 8) for policy in POLICIES)])
def test_tokens_are_the_same_with_a_host_pool_that_is_too_small(unparked, policy, k):
    tokens = run_prompts(
        PROMPTS,
        between_steps=park_every(k),
        scheduling_policy=policy,
        num_gpu_blocks_override=16,
        num_host_blocks_override=6,
        starvation_limit_s=0.05,
    )
    assert tokens == unparked


def test_tokens_are_the_same_with_prefix_caching(unparked):
    tokens = run_prompts(PROMPTS + PROMPTS, between_steps=park_every(5), enable_prefix_caching=True)
    assert tokens == unparked + unparked


def test_seeded_sampling_survives_parking():
    baseline = run_prompts(PROMPTS, SEEDED)
    assert run_prompts(PROMPTS, SEEDED, between_steps=park_every(2), prepare=delay_copies) == baseline
    assert run_prompts(PROMPTS, SEEDED, between_steps=park_every(8), preemption_mode="recompute") == baseline


@pytest.mark.parametrize("direction", [Direction.DEVICE_TO_HOST, Direction.HOST_TO_DEVICE])
def test_failed_copies_cost_time_but_no_tokens(unparked, direction):
    tokens = run_prompts(
        PROMPTS,
        between_steps=park_every(8),
        prepare=lambda core: FaultInjector(core.executor.worker.transfers.engine).inject_failure(direction, 5),
    )
    assert tokens == unparked


def test_a_flipped_byte_in_parked_kv_turns_the_canary_red_and_reaches_no_client(unparked):
    core = EngineCore.from_config(engine_config(write_through=False, num_gpu_blocks_override=16))
    try:
        driver = Driver(core)
        victims, others = (0, 1), range(2, len(PROMPTS))
        for request_id in victims:
            driver.add(request_id, PROMPTS[request_id])
        for _ in range(6):
            driver.step()
        for request_id in victims:
            core_internals.park(core.scheduler, request_id, True, time.monotonic())
        for request_id in others:  # they overwrite the device blocks of the victims
            driver.add(request_id, PROMPTS[request_id])
        while driver.unfinished != list(victims):
            driver.step()
        assert [core.explain(request_id)["state"] for request_id in victims] == ["parked", "parked"]
        np.asarray(core.executor.worker.transfers.arena)[:, 17] ^= 0x40  # one bit of every block on the host
        for request_id in victims:
            core_internals.unpark(core.scheduler, request_id, time.monotonic())
        driver.run()
        assert core_internals.num_mismatches(core.executor.worker.transfers.engine) > 0
        assert [driver.tokens[i] for i in range(len(PROMPTS))] == unparked
        driver.check_drained()
    finally:
        core.close()


def test_greedy_tokens_do_not_depend_on_the_batch(unparked):
    assert [run_prompts([prompt])[0] for prompt in PROMPTS[:3]] == unparked[:3]
    assert run_prompts(PROMPTS, GREEDY, max_num_seqs=2, max_prefill_chunk_tokens=8) == unparked
