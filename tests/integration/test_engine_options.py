"""Each option of the model, of the KV cache and of the engine loop does to a real engine what its help says."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from fastserve import _C
from fastserve._C.kv import Tier
from fastserve.engine.core import EngineCore
from fastserve.errors import DeviceError
from fastserve.types import FinishReason, SamplingParams
from tests import core_internals
from tests.checkpoints import tiny_checkpoint
from tests.integration.engine_driver import GREEDY, Driver, engine_config, park_every, random_prompts, run_prompts

PROMPT = list(range(3, 43))  # 40 tokens


def finish(driver: Driver, prompt: list[int], sampling: SamplingParams = GREEDY, **fields: object) -> list[int]:
    """Run one request to its end; returns its tokens."""
    request_id = len(driver.tokens)
    driver.add(request_id, prompt, sampling, **fields)
    driver.run()
    return driver.tokens[request_id]


# --- the model ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_that_of_the_kv_and_of_what_the_engine_says(make_driver, dtype):
    core = make_driver(dtype=dtype).core
    assert core.info.dtype == dtype
    assert core.executor.worker.kv_cache.dtype == getattr(torch, dtype)


def test_max_model_len_ends_the_output(make_driver):
    driver = make_driver(max_model_len=45)
    assert len(finish(driver, PROMPT)) == 5
    assert driver.last[0].finish_reason is FinishReason.LENGTH
    assert driver.core.info.max_model_len == 45


def test_load_format_dummy_needs_no_weights(make_driver, tmp_path):
    (tmp_path / "config.json").write_bytes((tiny_checkpoint("llama") / "config.json").read_bytes())
    assert len(finish(make_driver(model=str(tmp_path), load_format="dummy"), PROMPT)) == 24


def test_seed_decides_the_samples_of_requests_that_bring_none():
    sampling = SamplingParams(temperature=1.0, max_tokens=12, ignore_eos=True)
    first, again, other = (run_prompts([PROMPT, PROMPT], sampling, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first[0] != other[0]
    assert first[0] != first[1], "two requests without a seed do not get the same one"


@pytest.mark.parametrize("num_threads", [1, 3])
def test_num_threads_is_the_size_of_the_cores_pool(make_driver, num_threads):
    before = _C.num_threads()
    make_driver(num_threads=num_threads)
    try:
        assert _C.num_threads() == num_threads
    finally:
        _C.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device to run on")
def test_device_cuda_is_refused_where_there_is_none():
    assert EngineCore.from_config(engine_config(device="auto")).info.device == "cpu"
    with pytest.raises(DeviceError, match="device cuda cannot be used"):
        EngineCore.from_config(engine_config(device="cuda"))


# --- the KV cache ---


@pytest.mark.parametrize(("block_size", "num_blocks"), [(8, 5), (16, 3), (32, 2)])
def test_block_size_decides_how_many_blocks_a_prompt_holds(make_driver, block_size, num_blocks):
    driver = make_driver(block_size=block_size, max_prefill_chunk_tokens=64, async_scheduling=False)
    driver.add(0, PROMPT)
    driver.step()
    assert driver.core.explain(0)["device_blocks"] == num_blocks
    assert driver.core.executor.worker.kv_cache.shape[-2] == block_size
    driver.run()


BLOCK_BYTES = 3 * 2 * 2 * 16 * 32 * 4  # layers, key and value, heads, tokens, head size, float32
POOLS = [
    ({"num_gpu_blocks_override": 40, "num_host_blocks_override": 7}, 40, 7),
    ({"num_gpu_blocks_override": 40, "kv_gib": 5.0, "num_host_blocks_override": 7, "host_kv_gib": 5.0}, 40, 7),
    ({"num_gpu_blocks_override": None, "kv_gib": 100 * BLOCK_BYTES / 2**30}, 100, 256),
    ({"num_host_blocks_override": None, "host_kv_gib": 50 * BLOCK_BYTES / 2**30}, 64, 50),
    ({"num_host_blocks_override": None, "host_kv_gib": 0.0}, 64, 0),
]


@pytest.mark.parametrize(("changes", "num_device", "num_host"), POOLS, ids=str)
def test_pools_have_the_blocks_that_were_asked_for(make_driver, changes, num_device, num_host):
    core = make_driver(**changes).core
    assert (core.kv.usage(Tier.DEVICE).total, core.kv.usage(Tier.HOST).total) == (num_device, num_host)
    assert len(core.executor.worker.kv_cache) == num_device
    arena = core.executor.worker.transfers.arena
    assert (0 if arena is None else len(np.asarray(arena))) == num_host


@pytest.mark.parametrize(("enabled", "salts", "hits"), [(True, "aa", True), (True, "ab", False), (False, "aa", False)])
def test_prefix_caching_shares_kv_of_the_same_salt(make_driver, enabled, salts, hits):
    driver = make_driver(enable_prefix_caching=enabled)
    first, second = (finish(driver, PROMPT, cache_salt=salt) for salt in salts)
    assert first == second
    assert (driver.last[1].num_cached_tokens > 0) == hits
    assert (driver.core.stats().prefix_cache_hits > 0) == hits


@pytest.mark.parametrize("canary", [True, False])
def test_kv_canary_compares_hashes_of_what_was_parked(make_driver, canary):
    driver = make_driver(kv_canary=canary, num_gpu_blocks_override=16, preemption_mode="swap")
    for request_id, prompt in enumerate(random_prompts(10)):
        driver.add(request_id, prompt)
    driver.run(park_every(4))
    assert driver.core.scheduler.stats().upload_blocks > 0
    assert (core_internals.num_verified(driver.core.executor.worker.transfers.engine) > 0) == canary


# --- the loop ---


@pytest.mark.parametrize("async_scheduling", [True, False])
def test_async_scheduling_plans_ahead_of_the_tokens(make_driver, monkeypatch, async_scheduling):
    driver = make_driver(async_scheduling=async_scheduling)
    worker = driver.core.executor.worker
    forward, planned_ahead = worker.execute, []

    def execute(plan, changes):
        planned_ahead.append(bool((plan.token_ids == -1).any()))
        return forward(plan, changes)

    monkeypatch.setattr(worker, "execute", execute)
    finish(driver, PROMPT)
    assert any(planned_ahead) == async_scheduling


def test_profile_that_cannot_be_kept_costs_a_warning(make_driver, monkeypatch, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(logging.getLogger("fastserve"), "propagate", True)
    with caplog.at_level(logging.WARNING, "fastserve"):
        driver = make_driver()
    assert "cannot write" in caplog.text
    assert len(finish(driver, PROMPT)) == 24


def test_profile_is_kept_in_the_cache_folder_and_read_from_it(make_driver, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = make_driver().core.latency.coefficients()
    assert len(list(tmp_path.rglob("*.json"))) == 1
    assert make_driver().core.latency.coefficients() == measured


def test_tokens_do_not_depend_on_the_block_size():
    prompts = random_prompts(4, seed=5)
    expected = run_prompts(prompts)
    assert run_prompts(prompts, block_size=8, num_gpu_blocks_override=128) == expected
    assert run_prompts(prompts, block_size=32, num_gpu_blocks_override=32) == expected
