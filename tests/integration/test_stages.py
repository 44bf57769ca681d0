"""Stages in processes, with as many plans in flight, give the tokens of one rank, whatever is parked, aborted or copied badly."""

import os
import signal
import time

import pytest

from fastserve.errors import DeviceLostError, InvalidArgumentError
from fastserve.executor.mp import MpExecutor
from fastserve.types import SamplingParams
from tests.integration.engine_driver import GREEDY, Driver, engine_config, park_every, run_prompts
from tests.integration.test_ranks import MODELS, PROMPTS, SEEDED, config_of, run_all
from tests.ranks import core_on_ranks, shared_launcher

LAYOUTS = {"pp 2": (1, 2), "pp 3": (1, 3), "tp 2 x pp 2": (2, 2)}
QUICK = {
    ("opt", "float32", "pp 2"),
    ("opt", "bfloat16", "tp 2 x pp 2"),
    ("llama", "float32", "tp 2 x pp 2"),
    ("llama", "bfloat16", "pp 3"),
    ("qwen3", "float32", "pp 3"),
    ("qwen3", "bfloat16", "pp 2"),
}
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in ((f, d, layout) for f in MODELS for d in ("float32", "bfloat16") for layout in LAYOUTS)
]


def stages(num_stages: int, **options: object):
    return engine_config(pipeline_parallel_size=num_stages, **options)


@pytest.mark.parametrize(("family", "dtype", "layout"), CASES)
def test_tokens_are_those_of_one_rank_whatever_is_parked(
    family: str, dtype: str, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = config_of(family, dtype, enable_prefix_caching=True)
    greedy, seeded = run_prompts(PROMPTS, **options), run_prompts(PROMPTS, SEEDED, **options)
    assert greedy != seeded
    width, num_stages = LAYOUTS[layout]
    with core_on_ranks(stages(num_stages, tensor_parallel_size=width, **options)) as core:
        driver = Driver(core)
        for run, k in enumerate((None, 1, 2, 7)):
            assert run_all(driver, 100 * run, GREEDY, k) == greedy
        assert run_all(driver, 1000, SEEDED, 2) == seeded
        stats = core.scheduler.stats()
        assert stats.offload_blocks > 0
        assert stats.prefix_cache_hits > 0
        assert "a KV copy failed" not in caplog.text


def test_every_stage_has_a_plan_of_its_own() -> None:
    with core_on_ranks(stages(3, **config_of("llama", "float32"))) as core:
        driver = Driver(core)
        for i, prompt in enumerate(PROMPTS[:6]):
            driver.add(i, prompt[:3])
        driver.step()
        assert [running.plan.request_ids.tolist() for running in core._running] == [[2, 3], [4, 5]]
        driver.run()
        driver.check_drained()


def test_aborts_at_each_stage_change_no_token_of_others() -> None:
    options = config_of("llama", "float32", enable_prefix_caching=True)
    alone = run_prompts(PROMPTS, **options)
    with core_on_ranks(stages(3, **options)) as core:
        driver = Driver(core)
        for i, prompt in enumerate(PROMPTS + PROMPTS):
            driver.add(i, prompt)

        def act(driver: Driver) -> None:
            park_every(3)(driver)
            in_flight = [int(i) for running in core._running for i in running.plan.request_ids]
            left = [i for i in in_flight if i in driver.unfinished and i % 5 == 4]
            if driver.steps % 4 == 0 and left:
                core.abort(left[driver.steps // 4 % len(left)])

        driver.run(act)
        driver.check_drained()
        for i, tokens in driver.tokens.items():
            expected = alone[i % len(PROMPTS)]
            assert tokens == (expected if i % 5 != 4 else expected[: len(tokens)])
        assert any(len(driver.tokens[i]) < len(alone[i % len(PROMPTS)]) for i in driver.tokens)


def test_copies_that_fail_on_one_stage_cost_time_but_no_tokens(caplog: pytest.LogCaptureFixture) -> None:
    options = config_of("llama", "float32")
    alone = run_prompts(PROMPTS, **options)
    with core_on_ranks(stages(2, **options), "tests.ranks:BadCopies") as core:
        assert run_all(Driver(core), 0, GREEDY, 8) == alone
    assert "a KV copy failed and is taken back: rank 1: " in caplog.text


def test_a_request_that_cannot_be_started_ends_alone() -> None:
    options = config_of("llama", "float32")
    alone = run_prompts(PROMPTS[:2], **options)
    with core_on_ranks(stages(2, **options), "tests.ranks:BadEntry") as core:
        driver = Driver(core)
        for i, prompt in enumerate(PROMPTS[:3]):
            driver.add(i, prompt)
        driver.run()
        assert [driver.tokens[i] for i in (0, 1)] == alone
        assert "could not be started" in driver.last[2].error


def test_log_probabilities_come_from_the_last_stage() -> None:
    options = config_of("llama", "float32")
    wanted = SamplingParams(temperature=0.0, max_tokens=4, logprobs=3, ignore_eos=True)
    found = []
    for num_stages in (1, 2):
        with core_on_ranks(stages(num_stages, distributed_executor_backend="mp", **options)) as core:
            driver = Driver(core)
            driver.add(0, PROMPTS[0], wanted)
            driver.add(1, PROMPTS[1], GREEDY)
            found.append([])
            while core.has_work():
                found[-1] += [o.logprobs for o in driver.step() if o.request_id == 0 and o.token_ids]
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_iterations_are_charged_without_the_waits_between_stages() -> None:
    with core_on_ranks(stages(2, **config_of("llama", "float32"))) as core:
        shape = {"prefill_tokens": 64, "prefill_ctx": 0, "num_decodes": 0, "decode_ctx": 0}
        started_s = time.perf_counter()
        busy_s = sum(core.executor.time_iteration(**shape) for _ in range(10))
        assert 0 < busy_s < time.perf_counter() - started_s


def test_a_killed_rank_of_a_middle_stage_ends_the_engine_with_its_name() -> None:
    with core_on_ranks(stages(3, **config_of("llama", "float32"))) as core:
        driver = Driver(core)
        for i, prompt in enumerate(PROMPTS):
            driver.add(i, prompt)
        pid = core.executor.pids[1]

        def act(driver: Driver) -> None:
            if driver.steps == 5:
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(DeviceLostError, match=rf"rank 1 \(stage 1, process {pid}\) was killed by SIGKILL"):
            driver.run(act)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"pipeline_parallel_size": 4}, "pipeline_parallel_size 4 is more than the 3 layers of LlamaForCausalLM: use at most 3"),
        ({"pipeline_parallel_size": 2, "tensor_parallel_size": 3}, "does not divide the 8 attention heads"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_cut_like_this_is_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        MpExecutor(engine_config(**config_of("llama", "float32"), **sizes), launcher=shared_launcher())
