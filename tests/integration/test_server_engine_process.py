"""The HTTP server over a real engine process and socket (with a fake core)."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fastserve.config import EngineConfig, ModelConfig, ServerConfig
from fastserve.engine.async_engine import AsyncEngine
from tests.unit.engine import fake_core
from tests.unit.server.conftest import Live, live_server
from tests.unit.tokenizer import tiny

FAKE = "tests.unit.engine.fake_core"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
async def served(folder: Path) -> AsyncIterator[Live]:
    """A server over an engine that takes its time for each token."""
    config = EngineConfig(model=ModelConfig(model=str(folder)))
    engine = await AsyncEngine.start(config, core_factory=f"{FAKE}:make_paced")
    async with live_server(engine, ServerConfig()) as live:
        yield live
    await engine._client.close(grace_s=1.0)


async def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait for something that another process does."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "not within the time limit"
        await asyncio.sleep(0.005)


async def running_in_engine(live: Live) -> int:
    return (await live.engine.stats()).num_running


async def test_streamed_and_whole_completion_are_the_engines_tokens(served):
    prompt = [10, 20, 30]
    expected = served.engine.tokenizer.decode(list(fake_core.tokens_of(prompt, 20)))
    whole = await served.openai.completions.create(model="fake", prompt=prompt, max_tokens=20)
    assert whole.choices[0].text == expected
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 20
    assert whole.usage.model_extra["fastserve"]["preemptions"] == 3
    stream = await served.openai.completions.create(model="fake", prompt=prompt, max_tokens=20, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == expected


async def test_chat_goes_through_the_tokenizers_template(served):
    reply = await served.chat(max_tokens=5, ignore_eos=True)
    assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] == 5
    rendered = await served.post("/tokenize", messages=[{"role": "user", "content": "hi"}])
    assert rendered.json()["count"] == reply.json()["usage"]["prompt_tokens"]


async def test_many_clients_at_once_each_get_their_own_tokens(served):
    async def one(first: int) -> None:
        prompt = [first, first + 1]
        reply = await served.openai.completions.create(model="fake", prompt=prompt, max_tokens=15, n=2)
        expected = served.engine.tokenizer.decode(list(fake_core.tokens_of(prompt, 15)))
        assert reply.choices[0].text == expected

    await asyncio.gather(*(one(first) for first in range(10, 50)))
    assert await running_in_engine(served) == 0


async def test_client_that_leaves_frees_the_engine(served):
    task = asyncio.create_task(served.complete(prompt=[5, 6], max_tokens=200, ignore_eos=True, n=3))
    while await running_in_engine(served) < 3:
        await asyncio.sleep(0.005)
    task.cancel()
    deadline_s = time.monotonic() + 5
    while await running_in_engine(served):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.005)


async def test_killed_engine_is_an_error_in_the_stream_and_fails_livez(served):
    stream = await served.http.send(
        served.http.build_request(
            "POST", "/v1/completions", json={"prompt": [5, 6], "max_tokens": 200, "ignore_eos": True, "stream": True}
        ),
        stream=True,
    )
    lines = stream.aiter_lines()
    assert (await anext(lines)).startswith("data: ")
    killed_s = time.monotonic()
    os.kill(served.engine.pid, signal.SIGKILL)
    rest = [line async for line in lines]
    assert time.monotonic() - killed_s < 2.0
    assert '"code":"engine_dead"' in rest[-2] and rest[-1] == ""
    await stream.aclose()
    await until(lambda: not served.engine.is_alive)
    assert (await served.http.get("/livez")).status_code == 503
    assert (await served.complete()).status_code == 503


async def test_engine_refusals_are_400s_and_explain_and_metrics_answer(served):
    assert (await served.http.get("/v1/requests/none/explain")).status_code == 404
    task = asyncio.create_task(served.complete(prompt=[5], max_tokens=100, ignore_eos=True, request_id="mine"))
    while await running_in_engine(served) < 1:
        await asyncio.sleep(0.005)
    reply = await served.http.get("/v1/requests/mine/explain")
    assert reply.status_code == 200 and isinstance(reply.json(), dict)
    assert "fastserve:num_requests_running" in (await served.http.get("/metrics")).text
    assert (await task).status_code == 200
