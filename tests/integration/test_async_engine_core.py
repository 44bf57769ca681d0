"""AsyncEngine and LLM over the real core on a tiny checkpoint, with a device pool too small for the load."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest
import pytest_asyncio

from fastserve.config import EngineConfig
from fastserve.engine.async_engine import AsyncEngine
from fastserve.engine.llm import LLM
from fastserve.engine.options import engine_config
from fastserve.errors import CheckpointError, EngineDeadError, InvalidArgumentError, OverloadedError
from fastserve.types import CompletionDelta, FinishReason, RequestEvent, SamplingParams, SchedulingParams
from tests.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPTS = ["The quick brown fox", "Short jobs first,", "A request that waits", "猫が好きです。 🙂", "def quantum("]
GREEDY = SamplingParams(temperature=0.0, max_tokens=48, ignore_eos=True)
OPTIONS = {
    "dtype": "float32",
    "max_model_len": 256,
    "num_threads": 1,
    "num_gpu_blocks_override": 24,  # two or three of the requests below
    "num_host_blocks_override": 256,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 64,
    "starvation_limit_s": 0.2,
    "kv_canary": True,
    "enable_prefix_caching": False,
}


def config(**changes: object) -> EngineConfig:
    return engine_config(str(tiny_checkpoint("llama")), OPTIONS | changes)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    """One request at a time in a roomy pool: what the engine must give under any load."""
    options = OPTIONS | {"num_gpu_blocks_override": 256, "scheduling_policy": "fcfs"}
    with LLM(str(tiny_checkpoint("llama")), **options) as llm:
        yield llm


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[AsyncEngine]:
    engine = await AsyncEngine.start(config(max_num_queued_reqs=150))
    yield engine
    await engine.close()


async def collect(stream: AsyncIterator[CompletionDelta]) -> list[CompletionDelta]:
    return [delta async for delta in stream]


async def engine_is_empty(engine: AsyncEngine) -> None:
    """Wait until no request and no KV is left; the frontend must hold none either."""
    deadline_s = time.monotonic() + 20
    while True:
        stats = await engine.stats()
        live = stats.num_running + stats.num_waiting + stats.num_parked_device + stats.num_parked_host
        if live == 0 and stats.device_usage == 0.0 and stats.host_usage == 0.0:
            break
        assert time.monotonic() < deadline_s, f"something is left in the engine: {stats}"
    engine._requests.check_integrity()
    assert len(engine._requests) == 0


async def test_text_under_preemption_is_that_of_one_request_alone(engine: AsyncEngine, llm: LLM) -> None:
    expected = [llm.generate(prompt, GREEDY, use_tqdm=False)[0].outputs[0] for prompt in PROMPTS]
    prompts = [engine.tokenizer.encode(prompt) for prompt in PROMPTS] * 4
    results = await asyncio.gather(
        *(collect(engine.generate([prompt], GREEDY, request_id=str(i))) for i, prompt in enumerate(prompts))
    )
    for i, deltas in enumerate(results):
        alone = expected[i % len(PROMPTS)]
        assert sum((delta.token_ids for delta in deltas), ()) == alone.token_ids
        assert "".join(delta.text for delta in deltas) == alone.text
        assert deltas[-1].finish_reason is alone.finish_reason
    assert sum(deltas[-1].stats.preemptions for deltas in results) > 0
    await engine_is_empty(engine)


async def test_a_batch_gives_what_each_prompt_gives_alone(llm: LLM) -> None:
    params = [SamplingParams(temperature=0.8, seed=i, max_tokens=20, logprobs=2) for i in range(len(PROMPTS))]
    together = llm.generate(PROMPTS, params, use_tqdm=False)
    for prompt, sampling, output in zip(PROMPTS, params, together, strict=True):
        alone = llm.generate(prompt, sampling, use_tqdm=False)[0]
        assert alone.outputs[0].token_ids == output.outputs[0].token_ids
        assert len(output.outputs[0].logprobs) == len(output.outputs[0].token_ids)


async def test_the_completions_of_a_seeded_request_differ_and_repeat(llm: LLM) -> None:
    sampling = SamplingParams(n=4, seed=3, max_tokens=12)
    first, second = (llm.generate("x", sampling, use_tqdm=False)[0].outputs for _ in range(2))
    assert len({completion.token_ids for completion in first}) == 4
    assert [c.token_ids for c in first] == [c.token_ids for c in second]
    (one,) = llm.generate("x", SamplingParams(seed=3, max_tokens=12), use_tqdm=False)[0].outputs
    assert one.token_ids == first[0].token_ids


async def test_a_stop_string_ends_a_real_output(llm: LLM) -> None:
    whole = llm.generate("x", GREEDY, use_tqdm=False)[0].outputs[0].text
    stop = whole[10:13]
    sampling = SamplingParams(temperature=0.0, max_tokens=48, ignore_eos=True, stop=(stop,))
    completion = llm.generate("x", sampling, use_tqdm=False)[0].outputs[0]
    assert completion.text == whole[: whole.index(stop)]
    assert (completion.finish_reason, completion.stop_reason) == (FinishReason.STOP, stop)


async def test_chat_works_on_a_real_checkpoint(llm: LLM) -> None:
    (output,) = llm.chat([{"role": "user", "content": "Hi"}], GREEDY, use_tqdm=False)
    assert output.prompt.startswith("<|user|>")
    assert len(output.outputs[0].token_ids) == 48


async def test_random_cancels_under_preemption_leave_nothing(engine: AsyncEngine) -> None:
    rng = random.Random(0)

    async def one(i: int) -> None:
        prompt = [rng.randint(3, 500) for _ in range(rng.randint(1, 90))]
        sampling = SamplingParams(max_tokens=rng.randint(1, 60), n=rng.randint(1, 2), ignore_eos=True)
        stream = engine.generate([prompt], sampling, request_id=str(i))
        try:
            async with asyncio.timeout(rng.choice([0.005, 0.05, 0.5, 5.0])), aclosing(stream):
                async for _ in stream:
                    if rng.random() < 0.01:
                        await engine.abort(str(i))
        except TimeoutError:
            return

    await asyncio.gather(*(one(i) for i in range(100)))
    await engine_is_empty(engine)
    deltas = await collect(engine.generate([[5]], SamplingParams(max_tokens=3, ignore_eos=True), request_id="last"))
    assert deltas[-1].finish_reason is FinishReason.LENGTH


async def test_a_client_can_watch_its_request_move(engine: AsyncEngine) -> None:
    sampling = SamplingParams(max_tokens=200, ignore_eos=True, temperature=0.0)
    streams = [engine.generate([[7 + i]], sampling, request_id=str(i), watch=True) for i in range(12)]
    tasks = [asyncio.create_task(collect(stream)) for stream in streams]
    while (facts := await engine.explain("0")) is None:
        await asyncio.sleep(0)
    assert {"state", "level"} <= facts.keys()
    results = await asyncio.gather(*tasks)
    events = [item for items in results for item in items if isinstance(item, RequestEvent)]
    assert len({event.facts["state"] for event in events}) > 1
    assert await engine.explain("0") is None


async def test_an_expired_deadline_is_an_error(engine: AsyncEngine) -> None:
    sampling = SamplingParams(max_tokens=250, ignore_eos=True)
    late = await collect(engine.generate([[5]], sampling, SchedulingParams(deadline_s=1e-4), request_id="late"))
    assert late[-1].finish_reason is FinishReason.DEADLINE
    assert "deadline" in late[-1].error
    await engine_is_empty(engine)


async def test_a_full_queue_refuses(engine: AsyncEngine) -> None:
    sampling = SamplingParams(max_tokens=250, ignore_eos=True, n=16)
    streams = [engine.generate([[5]], sampling, request_id=str(i)) for i in range(10)]
    tasks = [asyncio.create_task(collect(stream)) for stream in streams]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    with pytest.raises(OverloadedError, match="at most 150"):
        done.pop().result()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await engine_is_empty(engine)


async def test_a_configuration_that_does_not_fit_is_refused_at_start() -> None:
    with pytest.raises(InvalidArgumentError, match="max_model_len"):
        await AsyncEngine.start(config(max_model_len=10**6))


async def test_a_broken_checkpoint_is_named_at_start(tmp_path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_checkpoint("llama") / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 16)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        await AsyncEngine.start(engine_config(str(tmp_path), OPTIONS))


async def test_a_killed_engine_is_seen_by_every_request(engine: AsyncEngine) -> None:
    sampling = SamplingParams(max_tokens=250, ignore_eos=True)  # the last test: the engine is not started again
    streams = [engine.generate([[5 + i]], sampling, request_id=str(i)) for i in range(8)]
    await anext(streams[0])
    tasks = [asyncio.create_task(collect(stream)) for stream in streams]
    await asyncio.sleep(0)
    engine._client._process.kill()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, EngineDeadError) for result in results)
