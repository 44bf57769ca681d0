"""A real uvicorn on a loopback port, in the test's own event loop, over a FakeEngine."""

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from unittest.mock import AsyncMock

import httpx
import openai
import pytest
import uvicorn

from fastserve.config import ServerConfig
from fastserve.server.app import build_app
from fastserve.server.http_protocol import GuardedHttpProtocol
from fastserve.server.listening import bind
from fastserve.server.server_state import ServerState
from fastserve.server.side_processes.form_checker import FormChecker
from tests.unit.server.fake_engine import FakeEngine


@dataclass
class Live:
    """A listening server and clients for it."""

    engine: FakeEngine
    serving: ServerState
    port: int
    http: httpx.AsyncClient
    openai: openai.AsyncOpenAI | None

    async def post(self, path: str, **body) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def complete(self, **body) -> httpx.Response:
        return await self.post("/v1/completions", **({"prompt": "hi"} | body))

    async def chat(self, content="hi", **body) -> httpx.Response:
        return await self.post("/v1/chat/completions", **({"messages": [{"role": "user", "content": content}]} | body))


@asynccontextmanager
async def live_server(engine: FakeEngine | None, config: ServerConfig) -> AsyncIterator[Live]:
    """Serve `engine` until the body ends."""
    app = build_app(engine, config, "fake")
    sockets = bind("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=functools.partial(
                GuardedHttpProtocol, max_body_bytes=config.max_body_bytes, on_refused=app.state.server.count_refusal
            ),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
    )
    task = asyncio.create_task(server._serve(sockets))
    while not server.started:
        await asyncio.sleep(0)
    url = f"http://127.0.0.1:{port}"
    key = config.api_key[0] if config.api_key else "none"
    try:
        async with (
            httpx.AsyncClient(base_url=url, timeout=20) as http,
            openai.AsyncOpenAI(base_url=url + "/v1", api_key=key, max_retries=0) as client,
        ):
            yield Live(engine, app.state.server, port, http, client)
    finally:
        server.should_exit = True
        await task
        app.state.server.close()


@pytest.fixture(autouse=True)
def unchecked_forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms of outputs are taken as right, without a process that compiles them, except in tests marked `checks_forms`."""
    if request.node.get_closest_marker("checks_forms") is None:
        monkeypatch.setattr(FormChecker, "check", AsyncMock())


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def live(engine: FakeEngine) -> AsyncIterator[Live]:
    """The default server: no key, 64 KiB bodies."""
    async with live_server(engine, ServerConfig(max_body_bytes=64 * 1024)) as server:
        yield server


@pytest.fixture
async def direct(engine: FakeEngine) -> AsyncIterator[Live]:
    """The same app called in process: for what needs no socket."""
    async with called_in_process(engine, ServerConfig(max_body_bytes=64 * 1024)) as server:
        yield server


@pytest.fixture
async def strict(engine: FakeEngine) -> AsyncIterator[Live]:
    """As `direct`, with strict_fields."""
    async with called_in_process(engine, ServerConfig(max_body_bytes=64 * 1024, strict_fields=True)) as server:
        yield server


@asynccontextmanager
async def called_in_process(engine: FakeEngine, config: ServerConfig) -> AsyncIterator[Live]:
    """An app without a socket."""
    app = build_app(engine, config, "fake")
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(base_url="http://server", transport=transport, timeout=20) as http:
        yield Live(engine, app.state.server, 0, http, None)
    app.state.server.close()


async def until(condition, limit_s: float = 5.0) -> None:
    """Let the event loop run until the condition holds."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.001)
