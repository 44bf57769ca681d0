"""Ranks in processes give the tokens of one rank, whatever is parked, aborted or copied badly."""

import pytest

from fastserve.types import SamplingParams
from tests.checkpoints import tiny_checkpoint
from tests.integration.engine_driver import GREEDY, Driver, engine_config, park_every, random_prompts, run_prompts
from tests.ranks import core_on_ranks

PROMPTS = random_prompts(10)
SEEDED = SamplingParams(temperature=0.8, top_p=0.9, top_k=40, seed=7, max_tokens=24, ignore_eos=True,
                        repetition_penalty=1.1, frequency_penalty=0.2, logprobs=2)  # fmt: skip
SIZES = {"num_attention_heads": 8, "hidden_size": 256}  # whole segments for 4 ranks
MODELS = {
    "opt": SIZES | {"ffn_dim": 256},
    "llama": SIZES | {"num_key_value_heads": 2, "intermediate_size": 256},  # 4 ranks share 2 KV heads
    "qwen3": SIZES | {"num_key_value_heads": 4, "intermediate_size": 256, "head_dim": 32},
}


def config_of(family: str, dtype: str, **changes: object):
    checkpoint = tiny_checkpoint(family, dtype=dtype, **MODELS[family])
    options = {"model": str(checkpoint), "dtype": dtype, "num_gpu_blocks_override": 20, "num_threads": 1}
    return options | changes


def run_all(driver: Driver, first_id: int, sampling: SamplingParams, k: int | None) -> list[list[int]]:
    """Run all prompts through an engine that others may use later."""
    driver.steps = 0
    for i, prompt in enumerate(PROMPTS):
        driver.add(first_id + i, prompt, sampling)
    driver.run(park_every(k) if k else None)
    driver.check_drained()
    return [driver.tokens[first_id + i] for i in range(len(PROMPTS))]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", MODELS)
def test_tokens_are_those_of_one_rank_whatever_is_parked(
    family: str, dtype: str, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    options = config_of(family, dtype)
    greedy, seeded = run_prompts(PROMPTS, **options), run_prompts(PROMPTS, SEEDED, **options)
    assert greedy != seeded
    with core_on_ranks(engine_config(tensor_parallel_size=size, **options)) as core:
        driver = Driver(core)
        for run, k in enumerate((None, 1, 2, 7)):
            assert run_all(driver, 100 * run, GREEDY, k) == greedy
        assert run_all(driver, 1000, SEEDED, 2) == seeded
        stats = core.scheduler.stats()
        assert stats.offload_blocks > 0
        assert stats.upload_blocks > 0
        assert "a KV copy failed" not in caplog.text


def test_aborts_and_a_shared_prefix_change_no_token_of_others() -> None:
    options = config_of("llama", "float32", enable_prefix_caching=True)
    alone = run_prompts(PROMPTS, **options)
    with core_on_ranks(engine_config(tensor_parallel_size=2, **options)) as core:
        driver = Driver(core)
        for i, prompt in enumerate(PROMPTS + PROMPTS):
            driver.add(i, prompt)

        def act(driver: Driver) -> None:
            park_every(3)(driver)
            if driver.steps % 4 == 0 and (left := [i for i in driver.unfinished if i % 5 == 4]):
                core.abort(left[0])

        driver.run(act)
        driver.check_drained()
        assert core.scheduler.stats().prefix_cache_hits > 0
        for i, tokens in driver.tokens.items():
            expected = alone[i % len(PROMPTS)]
            assert tokens == (expected if i % 5 != 4 else expected[: len(tokens)])
        assert any(len(driver.tokens[i]) < len(alone[i % len(PROMPTS)]) for i in driver.tokens)


def test_copies_that_fail_on_one_rank_cost_time_but_no_tokens(caplog: pytest.LogCaptureFixture) -> None:
    options = config_of("llama", "float32")
    alone = run_prompts(PROMPTS, **options)
    with core_on_ranks(engine_config(tensor_parallel_size=2, **options), "tests.ranks:BadCopies") as core:
        driver = Driver(core)
        assert run_all(driver, 0, GREEDY, 8) == alone
    assert "a KV copy failed and is taken back: rank 1: " in caplog.text


def test_log_probabilities_and_long_changes_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve.executor.mp.PIECE_BYTES", 100)  # each change in several frames
    options = config_of("llama", "float32")
    wanted = SamplingParams(temperature=0.0, max_tokens=4, logprobs=3, ignore_eos=True)

    def logprobs(driver: Driver) -> list[object]:
        driver.add(0, PROMPTS[0], wanted)
        driver.add(1, PROMPTS[1], GREEDY)
        found = []
        while driver.core.has_work():
            found += [o.logprobs for o in driver.step() if o.request_id == 0 and o.token_ids]
        return found

    from fastserve.engine.core import EngineCore

    one = EngineCore.from_config(engine_config(**options))
    try:
        expected = logprobs(Driver(one))
    finally:
        one.close()
    assert len(expected) == 4
    with core_on_ranks(engine_config(tensor_parallel_size=2, **options)) as core:
        assert logprobs(Driver(core)) == expected


def test_plans_that_no_slot_of_the_ring_holds_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("mp", "rank_group"):
        monkeypatch.setattr(f"fastserve.executor.{room}.SLOT_BYTES", 600)
    monkeypatch.setattr("fastserve.executor.mp.PIECE_BYTES", 100)
    options = config_of("llama", "float32")
    alone = run_prompts(PROMPTS, **options)
    with core_on_ranks(engine_config(tensor_parallel_size=2, **options)) as core:
        assert run_all(Driver(core), 0, GREEDY, 7) == alone


def test_one_rank_can_have_a_process_of_its_own() -> None:
    options = config_of("llama", "float32")
    alone = run_prompts(PROMPTS, **options)
    with core_on_ranks(engine_config(distributed_executor_backend="mp", **options)) as core:
        assert core.info.device == "cpu"
        assert run_all(Driver(core), 0, GREEDY, 7) == alone


def test_a_request_that_a_rank_cannot_start_ends_alone() -> None:
    options = config_of("llama", "float32")
    alone = run_prompts(PROMPTS[:2], **options)
    with core_on_ranks(engine_config(tensor_parallel_size=2, **options), "tests.ranks:BadEntry") as core:
        driver = Driver(core)
        for i, prompt in enumerate(PROMPTS[:3]):
            driver.add(i, prompt)
        driver.run()
        assert [driver.tokens[i] for i in (0, 1)] == alone
        assert driver.last[2].error
        assert "could not be started" in driver.last[2].error
