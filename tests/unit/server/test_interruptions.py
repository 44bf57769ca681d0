"""Failures, disconnects, deadlines and slow readers while a generation runs."""

import asyncio
import contextlib
import json
import logging
import socket
import time

import openai
import pytest

from fastserve.errors import EngineDeadError, RequestFailedError
from fastserve.server import http_protocol
from fastserve.server.errors import DrainingError
from fastserve.types import FinishReason
from tests.unit.server.conftest import until
from tests.unit.server.fake_engine import Script

BODY = b'{"prompt":"hi","max_tokens":400,"stream":%s}'


async def send_request(live, *, stream: bool, slow: bool = False):
    """A raw request; returns its reader and writer. `slow`: small buffers, so that not reading is felt at once."""
    sock = socket.create_connection(("127.0.0.1", live.port))
    if slow:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024 if slow else 65536)
    body = BODY % (b"true" if stream else b"false")
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    return reader, writer


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_leaves_aborts_its_request(live, stream):
    live.engine.script = Script(gate=asyncio.Event())
    reader, writer = await send_request(live, stream=stream)
    await until(lambda: live.engine.running)
    if stream:
        await reader.readuntil(b"Hello")
    writer.close()
    await until(lambda: live.engine.aborted)
    await until(lambda: len(live.serving.in_flight) == 0)
    assert not live.engine.running


async def test_client_that_leaves_before_the_first_token_aborts_all_its_prompts(live):
    live.engine.script = Script(delay_s=30)
    task = asyncio.create_task(live.complete(prompt=["a", "b", "c"]))
    await until(lambda: live.engine.running)
    assert len(live.engine.calls[0].prompts) == 3
    task.cancel()
    await until(lambda: live.engine.aborted)


async def test_upload_that_is_dropped_leaves_nothing_behind_and_is_no_error(live, caplog):
    caplog.set_level("DEBUG")
    _, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    assert (await live.complete()).status_code == 200
    assert len(live.engine.calls) == 1
    left = [row for row in caplog.records if "while it sent its request" in row.getMessage()]
    assert [row.levelname for row in left] == ["DEBUG"]
    assert not [row for row in caplog.records if row.levelno > logging.INFO or row.exc_info]


async def test_head_that_does_not_end_is_cut_off(live, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(b"GET /livez HTTP/1.1\r\nhost:")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_head_without_bound_is_cut_off(live):
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(b"GET /livez HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (i, b"y" * 100) for i in range(5000)))
    with contextlib.suppress(ConnectionError):
        assert (await asyncio.wait_for(reader.read(), http_protocol.HEAD_TIMEOUT_S / 2)).startswith(b"HTTP/1.1 431")
    writer.close()


async def test_long_head_within_the_bound_is_served(live):
    headers = {f"x-{i}": "y" * 1000 for i in range(40)}
    assert (await live.http.get("/livez", headers=headers)).status_code == 200


async def test_failure_before_the_first_token_is_an_http_error(live):
    for failure, status in (
        (EngineDeadError("gone"), 503),
        (RequestFailedError("kernel"), 500),
        (RuntimeError("secret detail"), 500),
    ):
        live.engine.script = Script(fail_after=0, failure=failure)
        for stream in (True, False):
            reply = await live.complete(stream=stream)
            assert reply.status_code == status
            assert "secret" not in reply.text


async def test_failure_in_a_stream_is_an_error_event_and_ends_it(live):
    live.engine.script = Script(fail_after=1, failure=EngineDeadError("gone"))
    reply = await live.complete(stream=True)
    rows = [json.loads(line[6:]) for line in reply.text.splitlines() if line]
    assert rows[0]["choices"][0]["text"] == "Hello"
    assert rows[-1]["error"] == {"message": "gone", "type": "server_error", "param": None, "code": "engine_dead"}
    assert "[DONE]" not in reply.text
    with pytest.raises(openai.APIError, match="gone"):
        async for _ in await live.openai.completions.create(model="fake", prompt="x", stream=True):
            pass


async def test_failed_choice_fails_the_request(live):
    live.engine.script = Script(finish=FinishReason.ERROR, error="device fault")
    reply = await live.complete(n=2)
    assert reply.status_code == 500 and reply.json()["error"]["message"] == "device fault"


async def test_overload_is_a_429_with_retry_after(live):
    live.engine.overloaded = True
    for stream in (True, False):
        reply = await live.complete(stream=stream)
        assert reply.status_code == 429
        assert int(reply.headers["retry-after"]) >= 1
    with pytest.raises(openai.RateLimitError):
        await live.openai.completions.create(model="fake", prompt="x")


async def test_expired_deadline_is_an_error_and_never_a_length(live):
    live.engine.script = Script(gate=asyncio.Event())
    reply = await live.complete(deadline_s=0.05)
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "deadline_exceeded"
    assert reply.headers["x-should-retry"] == "false"
    assert len(live.engine.aborted) == 1
    streamed = await live.complete(deadline_s=0.05, stream=True)
    assert "deadline_exceeded" in streamed.text and "length" not in streamed.text


async def test_deadline_that_the_engine_enforces_reads_the_same(live):
    live.engine.script = Script(finish=FinishReason.DEADLINE, error="expired", pieces=("a",))
    reply = await live.complete(deadline_s=50)
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "deadline_exceeded"


async def test_interrupting_all_tells_every_client(live):
    live.engine.script = Script(gate=asyncio.Event())
    tasks = [asyncio.create_task(live.complete(stream=i % 2 == 0)) for i in range(6)]
    await until(lambda: len(live.engine.running) == 6)
    live.serving.in_flight.interrupt_all(EngineDeadError("the engine has stopped"))
    replies = await asyncio.gather(*tasks)
    assert all("engine_dead" in reply.text for reply in replies)
    assert len(live.engine.aborted) == 6 and len(live.serving.in_flight) == 0


async def test_draining_refuses_new_requests_and_lets_the_old_finish(live):
    live.engine.script = Script(gate=asyncio.Event())
    old = asyncio.create_task(live.complete())
    await until(lambda: live.engine.running)
    live.serving.draining = True
    reply = await live.complete()
    assert reply.status_code == 503 and "retry-after" in reply.headers
    live.engine.script.gate.set()
    assert (await old).status_code == 200


async def test_interrupted_stream_ends_with_the_reason(live):
    live.engine.script = Script(gate=asyncio.Event())
    reader, writer = await send_request(live, stream=True)
    await reader.readuntil(b"Hello")
    live.serving.in_flight.interrupt_all(DrainingError("shutting down"))
    assert b'"code":"draining"' in await reader.readuntil(b"0\r\n\r\n")
    writer.close()


@pytest.mark.timeout(60)
async def test_hundreds_of_slow_readers_hold_little_and_do_not_delay_a_quick_one(live):
    live.engine.script = Script(pieces=("x" * 20_000,), endless=True)
    readers = []
    for _ in range(200):
        readers.append(await send_request(live, stream=True, slow=True))
    await until(lambda: len(live.engine.running) == 200)
    started_s = time.monotonic()
    live.engine.script = Script()
    reply = await live.complete(stream=True)
    assert reply.text.endswith("[DONE]\n\n")
    assert time.monotonic() - started_s < 10
    for _, writer in readers:
        writer.transport.abort()
    await until(lambda: not live.engine.running, 20)
    assert len(live.serving.in_flight) == 0


async def test_reader_that_stopped_is_cut_off_after_a_while(live, monkeypatch):
    monkeypatch.setattr(http_protocol, "STALLED_READER_S", 0.05)
    live.engine.script = Script(pieces=("x" * 100_000,), endless=True)
    _, writer = await send_request(live, stream=True, slow=True)
    await until(lambda: live.engine.aborted)
    writer.transport.abort()
