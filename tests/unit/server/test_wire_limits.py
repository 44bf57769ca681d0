"""What comes before, behind and between requests is bounded on every route, with or without a key."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from fastserve.server import http_protocol
from fastserve.server.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS
from tests.unit.server.conftest import Live, until
from tests.unit.server.process import server_process, wait_ready

ROUTES = ["GET /health", "GET /nowhere", "POST /v1/completions"]


@asynccontextmanager
async def connected(live: Live) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A raw connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def send_until_cut(writer: asyncio.StreamWriter, piece: bytes, limit_bytes: int) -> int:
    """Write a piece again and again until the server closes; returns the bytes written."""
    sent = 0
    try:
        while sent < limit_bytes and not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
            sent += len(piece)
    except ConnectionError:
        pass
    return sent


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes or cuts the connection."""
    received = b""
    try:
        while piece := await asyncio.wait_for(reader.read(65536), 5):
            received += piece
    except ConnectionError:
        pass
    return received


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    """The body of a whole reply, which must be a 200."""
    start = await reader.readuntil(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 200")
    return await reader.readexactly(int(re.search(rb"content-length: (\d+)", start)[1]))


def head(route: str, *fields: str) -> bytes:
    return "\r\n".join([f"{route} HTTP/1.1", "host: x", *fields, "", ""]).encode()


@pytest.mark.parametrize("piece", [b"name: value\r\n" * 100, b"x" * 1000], ids=["lines", "one line"])
@pytest.mark.parametrize("route", ROUTES)
async def test_trailers_count_as_head_and_are_cut(live, route, piece):
    async with connected(live) as (_, writer):
        writer.write(head(route, "transfer-encoding: chunked") + b"0\r\n")
        assert await send_until_cut(writer, piece, 64 << 20) < 64 << 20


async def test_chunk_extension_without_end_is_cut(live):
    async with connected(live) as (_, writer):
        writer.write(head("POST /v1/completions", "transfer-encoding: chunked") + b"1;")
        assert await send_until_cut(writer, b"x" * 1000, 64 << 20) < 64 << 20


async def test_short_trailers_are_skipped_and_reach_no_later_request(live):
    body = b'{"prompt":"hi"}'
    async with connected(live) as (reader, writer):
        for _ in range(2):
            writer.write(head("POST /v1/completions", "transfer-encoding: chunked"))
            writer.write(b"%x\r\n%s\r\n0\r\nexpect: 100-continue\r\nx-sum: 7\r\n\r\n" % (len(body), body))
            await read_reply(reader)


async def test_many_small_chunks_are_one_body(live):
    body = b'{"prompt":"' + b"a" * 400 + b'"}'
    async with connected(live) as (reader, writer):
        writer.write(head("POST /v1/completions", "transfer-encoding: chunked"))
        for at in range(len(body)):
            writer.write(b"1\r\n%s\r\n" % body[at : at + 1])
        writer.write(b"0\r\n\r\n")
        await read_reply(reader)
    assert len(live.engine.calls[0].prompt_token_ids) == 401


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([f"a{i}: b" for i in range(MAX_HEADERS)], "too_many_headers"),
        (["a: " + "x" * (MAX_HEAD_BYTES + 2048)], "head_too_large"),
        (["a" * (MAX_HEAD_BYTES + 2048)], "head_too_large"),
        (["no colon"], "invalid_http"),
    ],
)
async def test_bad_head_is_refused_in_openais_shape(live, fields, code):
    async with connected(live) as (reader, writer):
        writer.write(head("GET /health", *fields))
        reply = await rest_of(reader)
    assert reply.startswith(b"HTTP/1.1 400" if code == "invalid_http" else b"HTTP/1.1 431")
    assert f'"code":"{code}"'.encode() in reply


async def test_head_without_a_request_line_is_refused(live):
    async with connected(live) as (reader, writer):
        writer.write(b"\r\n" * MAX_HEAD_BYTES)
        assert (await rest_of(reader)).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    ("route", "counted"), [("POST /v1/completions?a=b", 1), ("POST /v1/chat/completions", 1), ("GET /health", 0)]
)
async def test_bad_head_of_a_request_to_generate_counts_as_refused(live, route, counted):
    async with connected(live) as (reader, writer):
        writer.write(head("POST /v1/completions", "content-length: 15") + b'{"prompt":"hi"}')
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head(route, "no colon"))
        assert b"invalid_http" in await rest_of(reader)
    async with connected(live) as (reader, writer):  # what comes after a request names no path
        writer.write(head("POST /v1/completions", "content-length: 15") + b'{"prompt":"hi"}')
        await read_reply(reader)
        writer.write(b"\0\r\n\r\n")
        assert b"invalid_http" in await rest_of(reader)
    text = (await live.http.get("/metrics")).text
    assert re.search(rf'admission_rejections_total{{[^}}]*reason="invalid_request"}} {counted}\.0', text)


async def test_as_many_headers_as_allowed_are_served(live):
    fields = [f"a{i}: b" for i in range(MAX_HEADERS - 2)]
    async with connected(live) as (reader, writer):
        writer.write(head("GET /health", *fields, "connection: close"))
        assert (await rest_of(reader)).startswith(b"HTTP/1.1 200")


async def test_pipelined_requests_are_answered_in_order_however_many_come_at_once(live):
    paths = [f"/v1/models/m{i}" for i in range(3000)]
    async with connected(live) as (reader, writer):
        writer.write(b"".join(head(f"GET {path}") for path in paths) + head("GET /livez", "connection: close"))
        received = await rest_of(reader)
    assert re.findall(rb"the model '(m\d+)'", received) == [path[11:].encode() for path in paths]
    assert received.endswith(b'{"status":"ok"}')


async def test_pipelined_generations_and_bodies_keep_their_order(live):
    request = b'{"prompt":"%s","max_tokens":2}'
    bodies = [request % (b"a" * (100 * i)) for i in range(5)]
    async with connected(live) as (reader, writer):
        for body in bodies:
            writer.write(head("POST /v1/completions", f"content-length: {len(body)}") + body)
        for _ in bodies:
            await read_reply(reader)
    assert [len(call.prompt_token_ids) for call in live.engine.calls] == [1, 101, 201, 301, 401]


def test_megabytes_of_pipelined_requests_take_no_memory():
    with server_process("slow") as (process, client):
        wait_ready(client)
        memory = psutil.Process(process.pid).memory_info
        before, connections = memory().rss, []
        for _ in range(3):
            connection = socket.create_connection(("127.0.0.1", client.base_url.port))
            connections.append(connection)
            connection.setblocking(False)
            data = memoryview(b"GET / HTTP/1.1\r\n\r\n" * (3_000_000 // 18))
            try:
                while data:
                    data = data[connection.send(data) :]
            except BlockingIOError:
                pass
        for _ in range(100):  # by then it has read what it takes
            assert client.get("/livez").status_code == 200
        assert memory().rss - before < 8 << 20
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("framing", ["length", "chunks", "none"])
@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
async def test_request_that_offers_another_protocol_is_served_with_its_body_in_http_1(live, framing, together):
    """As Java's HttpClient sends every first request."""
    offer = ["connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAoAAAAAIAAAAA"]
    text = b'{"prompt":"hello"}'
    route, fields, body = {
        "length": ("POST /v1/completions", [f"content-length: {len(text)}"], text),
        "chunks": (
            "POST /v1/completions",
            ["transfer-encoding: chunked"],
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text),
        ),
        "none": ("GET /version", [], b""),
    }[framing]
    async with connected(live) as (reader, writer):
        for _ in range(2):
            pieces = [head(route, *fields, *offer), body, head("GET /livez")]
            for piece in [b"".join(pieces)] if together else pieces:
                writer.write(piece)
                await asyncio.sleep(0.01)
            assert (b"choices" if body else b"version") in await read_reply(reader)
            assert await read_reply(reader) == b'{"status":"ok"}'
    assert len(live.engine.calls) == (2 if body else 0)


async def test_bad_bytes_behind_a_request_are_not_written_into_its_reply(live):
    live.engine.script.gate = asyncio.Event()
    body = b'{"prompt":"hi","stream":true}'
    async with connected(live) as (reader, writer):
        writer.write(head("POST /v1/completions", f"content-length: {len(body)}") + body)
        await reader.readuntil(b"Hello")
        writer.write(b"\0nonsense\r\n\r\n")
        assert b"HTTP/1.1" not in await rest_of(reader)
    await until(lambda: not live.engine.running)


@pytest.mark.parametrize("position", [0, 1])
async def test_client_that_leaves_with_requests_queued_aborts_the_running_one(live, position, caplog):
    live.engine.script.gate = asyncio.Event()
    body = b'{"prompt":"hi","stream":true}'
    async with connected(live) as (reader, writer):
        writer.write(head("GET /livez") * position)
        writer.write(head("POST /v1/completions", f"content-length: {len(body)}") + body + head("GET /livez") * 3)
        await reader.readuntil(b"Hello")
    await until(lambda: live.engine.aborted)
    await until(lambda: len(live.serving.in_flight) == 0)
    assert not [row for row in caplog.records if row.exc_info]


async def test_body_that_is_not_read_is_cut(live):
    async with connected(live) as (reader, writer):
        writer.write(head("GET /health", "transfer-encoding: chunked"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await send_until_cut(writer, b"4000\r\n" + b"x" * 0x4000 + b"\r\n", 256 << 20) < 256 << 20


async def test_body_that_is_not_read_must_arrive_in_time(live, monkeypatch):
    monkeypatch.setattr(http_protocol, "REST_TIMEOUT_S", 0.05)
    async with connected(live) as (reader, writer):
        writer.write(head("GET /health", "content-length: 5") + b"a")
        assert (await rest_of(reader)).startswith(b"HTTP/1.1 200")


async def test_half_a_head_behind_a_running_request_does_not_cut_it(live, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.02)
    live.engine.script.gate = asyncio.Event()
    body = b'{"prompt":"hi","stream":true}'
    async with connected(live) as (reader, writer):
        writer.write(head("POST /v1/completions", f"content-length: {len(body)}") + body)
        await reader.readuntil(b"Hello")
        writer.write(b"GET /livez HTTP/1.1\r\n")
        await asyncio.sleep(0.1)  # several times what a head may take
        live.engine.script.gate.set()
        assert (await rest_of(reader)).endswith(b"0\r\n\r\n")  # cut only now, for the head that does not end
