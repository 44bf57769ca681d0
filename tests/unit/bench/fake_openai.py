"""An OpenAI-compatible server in a thread that answers each request as its prompt's first id says."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

# What the first id of a prompt asks for.
REFUSE, CUT, ERROR_EVENT, MALFORMED, EMPTY, NO_USAGE = range(900, 906)


@dataclass
class FakeServer:
    """What it was asked, and how fast it answers.

    Attributes:
        token_s: seconds between tokens.
        slots: most requests that run at once; the others queue.
        bodies: of every request, in the order of arrival.
    """

    token_s: float = 0.0
    slots: int = 10_000
    url: str = ""
    bodies: list[dict] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    running: int = 0
    most_running: int = 0


@contextmanager
def fake_openai(**settings: object) -> Iterator[FakeServer]:
    """Serve on a loopback port until the body ends."""
    fake = FakeServer(**settings)
    loop = asyncio.new_event_loop()
    runner = loop.run_until_complete(_start(fake))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _start(fake: FakeServer) -> web.AppRunner:
    app = web.Application(client_max_size=1 << 24)
    slots = asyncio.Semaphore(fake.slots)

    async def complete(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fake.bodies.append(body)
        fake.keys.add(request.headers.get("Authorization", ""))
        if body["prompt"][0] == REFUSE:
            return web.json_response({"error": {"message": "too many"}}, status=429)
        async with slots:
            fake.running += 1
            fake.most_running = max(fake.most_running, fake.running)
            try:
                return await _stream(fake, request, body)
            finally:
                fake.running -= 1

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "fake"}]})

    app.router.add_post("/v1/completions", complete)
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    return runner


async def _stream(fake: FakeServer, request: web.Request, body: dict) -> web.StreamResponse:
    mode, count = body["prompt"][0], body["max_tokens"]
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    if mode == MALFORMED:
        await response.write(b"data: {not json\n\n")
    for i in range(0 if mode == EMPTY else count):
        await asyncio.sleep(fake.token_s)
        if mode in (CUT, ERROR_EVENT) and i == 2:
            break
        reason = "length" if i == count - 1 else None
        await response.write(_event({"choices": [{"index": 0, "text": " t", "finish_reason": reason}]}))
    if mode == ERROR_EVENT:
        await response.write(_event({"error": {"message": "the engine has stopped"}}))
    elif mode not in (CUT, NO_USAGE, EMPTY):
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": count, "fastserve": {"preemptions": 2}}
        await response.write(b": a comment\n\n" + _event({"choices": [], "usage": usage}))
    if mode != CUT:
        await response.write(b"data: [DONE]\n\n")
    return response


def _event(value: dict) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
