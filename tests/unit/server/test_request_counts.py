"""Every request to generate moves the counters once: by how its sequences ended, or by why it was refused."""

import asyncio
from collections import Counter

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastserve.config import ServerConfig
from fastserve.errors import EngineDeadError, InvalidArgumentError, OverloadedError
from fastserve.metrics import REFUSAL_REASONS
from fastserve.server.errors import DrainingError
from fastserve.server.requests import json_body
from fastserve.types import EngineStats, FinishReason
from tests.unit.server.conftest import Live, live_server, until
from tests.unit.server.fake_engine import Script


async def counted(http: httpx.AsyncClient, **headers: str) -> tuple[Counter, Counter]:
    """What has been counted as ended and as refused, by reason."""
    ended, refused = Counter(), Counter()
    for family in text_string_to_metric_families((await http.get("/metrics", headers=headers)).text):
        for sample in family.samples:
            if sample.name == "fastserve:request_success_total":
                ended[sample.labels["finished_reason"]] += int(sample.value)
            if sample.name == "fastserve:admission_rejections_total":
                refused[sample.labels["reason"]] += int(sample.value)
    return +ended, +refused


async def test_every_reason_is_there_from_the_start(direct):
    text = (await direct.http.get("/metrics")).text
    for reason in REFUSAL_REASONS:
        assert f'reason="{reason}"}} 0.0' in text
    for reason in FinishReason:
        assert f'finished_reason="{reason.value}"' in text


# --- refusals ---


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b'{"prompt":"a","top_p":7}', 400, "invalid_request"),
        (b'{"prompt":"a","use_beam_search":true}', 400, "invalid_request"),
        (b'{"prompt":', 400, "invalid_request"),
        (b"\xff", 400, "invalid_request"),
        (b'{"prompt":[1,100000]}', 400, "invalid_request"),
        (b'{"prompt":"' + b"a" * 600 + b'"}', 400, "context_length"),
        (b'{"prompt":"a","model":"other"}', 404, "not_found"),
        (b'{"prompt":"' + b"a" * 100_000 + b'"}', 413, "too_large"),
    ],
)
async def test_refused_request_is_counted_once_by_its_reason(direct, content, status, reason):
    assert (await direct.http.post("/v1/completions", content=content)).status_code == status
    assert await counted(direct.http) == ({}, {reason: 1})


async def test_refused_chat_is_counted(direct):
    assert (await direct.chat("refuse")).status_code == 400
    assert await counted(direct.http) == ({}, {"invalid_request": 1})


async def test_states_of_the_server_are_counted_by_their_names(direct):
    serving, engine = direct.serving, direct.engine
    serving.draining = True
    assert (await direct.complete()).status_code == 503
    serving.draining = False
    engine.is_alive = False
    assert (await direct.complete()).status_code == 503
    serving.detach()
    assert (await direct.chat()).status_code == 503
    serving.restarting = False
    assert (await direct.complete()).status_code == 503
    assert await counted(direct.http) == ({}, dict.fromkeys(("draining", "engine_dead", "restarting", "loading"), 1))


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(OverloadedError("full"), "overloaded"), (InvalidArgumentError("top_k must fit"), "invalid_request")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_request_that_the_engine_refuses_is_counted_as_refused_only(direct, failure, reason, stream):
    direct.engine.script = Script(fail_after=0, failure=failure)
    await direct.complete(n=2, stream=stream)
    direct.engine.overloaded = True  # at once, before anything is awaited
    await direct.complete(stream=stream)
    assert await counted(direct.http) == ({}, Counter([reason, "overloaded"]))


async def test_request_id_in_use_is_a_refusal_and_hurts_not_the_first(live):
    live.engine.script.gate = asyncio.Event()
    first = asyncio.create_task(live.complete(request_id="same"))
    await until(lambda: live.engine.running)
    assert (await live.complete(request_id="same")).status_code == 400
    live.engine.script.gate.set()
    assert (await first).status_code == 200
    assert await counted(live.http) == ({"stop": 1}, {"invalid_request": 1})


async def test_wrong_key_is_counted_on_the_routes_that_generate(engine):
    async with live_server(engine, ServerConfig(api_key=("secret",))) as live:
        assert (await live.complete()).status_code == 401
        assert (await live.http.get("/v1/models")).status_code == 401
        assert await counted(live.http, Authorization="Bearer secret") == ({}, {"unauthorized": 1})


async def test_late_body_is_counted(live, monkeypatch):
    monkeypatch.setattr(json_body, "BODY_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await reader.read(65536)
    writer.close()
    await writer.wait_closed()
    assert await counted(live.http) == ({}, {"body_timeout": 1})


async def test_refusals_of_other_routes_are_not_counted(direct):
    assert (await direct.post("/tokenize", nonsense=1)).status_code == 400
    assert (await direct.http.get("/v1/models/other")).status_code == 404
    assert await counted(direct.http) == ({}, {})


# --- ends ---


@pytest.mark.parametrize("stream", [False, True])
async def test_missed_deadline_is_its_own_reason_in_engine_and_server(direct, stream):
    direct.engine.script = Script(gate=asyncio.Event())  # the server's clock
    await direct.complete(n=3, deadline_s=0.05, stream=stream)
    direct.engine.script = Script(finish=FinishReason.DEADLINE, error="expired")  # the engine's
    await direct.complete(n=2, deadline_s=50, stream=stream)
    assert await counted(direct.http) == ({"deadline": 5}, {})


async def test_sequences_of_a_request_that_fails_all_count_as_errors(direct):
    direct.engine.script = Script(finish=FinishReason.ERROR, error="device fault")
    await direct.complete(n=3)
    direct.engine.script = Script(fail_after=1, failure=EngineDeadError("gone"))
    await direct.complete(n=2)
    assert await counted(direct.http) == ({"error": 5}, {})


async def test_request_that_was_under_way_is_not_refused_by_what_ends_it(live):
    live.engine.script = Script(gate=asyncio.Event())
    for reason in (EngineDeadError("stopped"), DrainingError("stopping")):
        task = asyncio.create_task(live.complete(n=2))
        await until(lambda: live.engine.running)
        live.serving.in_flight.interrupt_all(reason)
        assert (await task).status_code == 503
    assert await counted(live.http) == ({"error": 2, "abort": 2}, {})


async def test_request_refused_after_its_first_tokens_has_failed(direct):
    direct.engine.script = Script(fail_after=1, failure=OverloadedError("the queue is full"))
    assert (await direct.complete(n=2)).status_code == 429
    assert await counted(direct.http) == ({"error": 2}, {})


async def test_only_complete_sequences_have_times(direct):
    direct.engine.script = Script(finish=FinishReason.ERROR, error="device fault")
    await direct.complete()
    direct.engine.script = Script()
    await direct.complete()
    text = (await direct.http.get("/metrics")).text
    for name, count in (
        ("e2e_request_latency_seconds", 1),
        ("request_queue_time_seconds", 1),
        ("normalized_latency_seconds", 1),
        ("request_num_preemptions", 1),
        ("request_generation_tokens", 2),
        ("request_prompt_tokens", 2),
        ("time_to_first_token_seconds", 2),
    ):
        assert f'fastserve:{name}_count{{engine="0",model_name="fake"}} {count}.0' in text, name


async def test_prompt_counts_with_its_first_token(direct):
    direct.engine.script = Script(gate=asyncio.Event(), pieces=("a", "b"))
    await direct.complete(prompt=[[1] * 7, [2] * 9], n=2, deadline_s=0.05)
    direct.engine.script = Script(fail_after=0, failure=EngineDeadError("gone"))
    await direct.complete(prompt=[1] * 100)  # was never looked at
    text = (await direct.http.get("/metrics")).text
    assert 'fastserve:prompt_tokens_total{engine="0",model_name="fake"} 16.0' in text
    assert 'fastserve:prompt_tokens_cached_total{engine="0",model_name="fake"} 8.0' in text


# --- a new engine ---


async def preemptions(live: Live) -> float:
    text = (await live.http.get("/metrics")).text
    return next(
        float(row.split()[-1]) for row in text.splitlines() if row.startswith("fastserve:num_preemptions_total")
    )


async def test_counters_of_the_engine_do_not_fall_when_it_is_replaced(direct):
    direct.engine.engine_stats = EngineStats(preemptions=5, num_running=3)
    assert await preemptions(direct) == 5
    direct.serving.detach()
    direct.engine.engine_stats = EngineStats(preemptions=1)
    direct.serving.attach(direct.engine)
    assert await preemptions(direct) == 6
    assert "num_requests_running{" in (text := (await direct.http.get("/metrics")).text)
    assert 'fastserve:num_requests_running{engine="0",model_name="fake"} 0.0' in text
