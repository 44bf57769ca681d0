"""Aborts in every state, deadlines, failed iterations and long runs leave nothing behind."""

import time

import numpy as np
import psutil
import pytest

from fastserve.engine.core import EngineCore
from fastserve.errors import DeviceError, InvalidArgumentError, OverloadedError
from fastserve.types import FinishReason, SamplingParams
from tests import core_internals
from tests.core_internals import FaultInjector
from tests.integration.engine_driver import GREEDY, Driver, engine_config, random_prompts

ABORT_PROBABILITY = {"offloading": 0.01, "uploading": 0.5}  # so that enough requests live to be uploaded


def test_random_aborts_in_every_state_leave_both_pools_empty(make_driver):
    driver = make_driver(num_gpu_blocks_override=20, num_host_blocks_override=40, preemption_mode="swap")
    FaultInjector(driver.core.executor.worker.transfers.engine).inject_random_delay(0.005, 2)
    rng = np.random.default_rng(0)
    states, wanted = set(), {"waiting", "running", "offloading", "parked", "uploading"}
    for round_number in range(60):  # how long a request stays in a state depends on the machine
        if round_number >= 12 and wanted <= states:
            break
        for i, prompt in enumerate(random_prompts(10, seed=round_number)):
            driver.add(100 * round_number + i, prompt)

        def disturb(driver: Driver) -> None:
            for request_id in driver.unfinished:
                if rng.random() < 0.05:
                    core_internals.park(driver.core.scheduler, request_id, False, time.monotonic())
                state = driver.core.explain(request_id)["state"]
                if rng.random() < ABORT_PROBABILITY.get(state, 0.02):
                    states.add(state)
                    driver.core.abort(request_id)

        driver.run(disturb)
    driver.check_drained()
    reasons = {output.finish_reason for output in driver.last.values()}
    assert reasons == {FinishReason.ABORT, FinishReason.LENGTH}
    assert len(driver.last) >= 120
    assert wanted <= states


def test_an_expired_deadline_is_an_error_and_never_length(make_driver):
    driver = make_driver()
    driver.add(1, [5] * 10, SamplingParams(max_tokens=200, ignore_eos=True), deadline_s=0.02)
    driver.add(2, [6] * 10, GREEDY)
    driver.run()
    assert driver.last[1].finish_reason is FinishReason.DEADLINE
    assert "deadline" in driver.last[1].error
    assert driver.last[2].finish_reason is FinishReason.LENGTH
    driver.check_drained()


def test_an_iteration_that_fails_ends_its_own_requests_only(make_driver, monkeypatch):
    driver = make_driver(async_scheduling=False)
    worker = driver.core.executor.worker
    forward = worker.execute
    calls = []

    def fail_once(plan, changes):
        calls.append(plan.num_rows)
        if len(calls) == 3:
            raise RuntimeError("injected")
        return forward(plan, changes)

    monkeypatch.setattr(worker, "execute", fail_once)
    driver.add(1, [5] * 10)
    for _ in range(6):
        driver.step()
    driver.add(2, [6] * 10)
    driver.run()
    assert driver.last[1].finish_reason is FinishReason.ERROR
    assert driver.last[2].finish_reason is FinishReason.LENGTH
    driver.check_drained()


def test_iterations_that_keep_failing_end_the_engine_loudly(make_driver, monkeypatch):
    driver = make_driver()

    def fail(*_):
        raise RuntimeError("injected")

    monkeypatch.setattr(driver.core.executor.worker, "execute", fail)
    with pytest.raises(DeviceError, match="injected"):
        for request_id in range(10):
            driver.add(request_id, [5] * 10)
            for _ in range(4):
                driver.step()


@pytest.mark.parametrize(
    ("prompt", "match"),
    [([5] * 256, "max_model_len"), ([5, 99999], "99999"), ([-1], "-1")],
)
def test_a_prompt_that_cannot_run_is_refused_by_name(make_driver, prompt, match):
    driver = make_driver()
    with pytest.raises(InvalidArgumentError, match=match):
        driver.add(1, prompt)
    assert not driver.core.has_work()


def test_a_full_queue_refuses_and_recovers(make_driver):
    driver = make_driver(max_num_queued_reqs=3)
    for request_id in range(3):
        driver.add(request_id, [5, 6, 7])
    with pytest.raises(OverloadedError, match="max-num-queued-reqs"):
        driver.add(3, [5, 6, 7])
    del driver.tokens[3]
    driver.run()
    driver.add(4, [5, 6, 7])
    driver.run()
    assert driver.last[4].finish_reason is FinishReason.LENGTH


def test_a_device_pool_smaller_than_one_request_is_refused_at_start():
    with pytest.raises(InvalidArgumentError, match=r"max_model_len = 256 tokens.*kv-gib"):
        EngineCore.from_config(engine_config(num_gpu_blocks_override=8))


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_requests(make_driver):
    driver = make_driver(num_gpu_blocks_override=40, num_host_blocks_override=40, max_num_seqs=64, kv_canary=False)
    process = psutil.Process()
    resident = []
    for thousand in range(10):
        for i in range(1000):
            driver.add(1000 * thousand + i, [3 + i % 500, 5, 7], SamplingParams(max_tokens=3, temperature=0.0))
        driver.run()
        assert len(driver.last) == 1000
        driver.tokens.clear()
        driver.last.clear()
        driver.steps = 0
        resident.append(process.memory_info().rss)
    driver.check_drained()
    assert resident[-1] - resident[2] < 8 << 20, resident
