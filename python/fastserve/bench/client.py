"""One timed, streamed completion of an OpenAI-compatible server; a failure is a result, never an exception."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import msgspec

from fastserve.errors import FastServeError

READ_LIMIT_BYTES = 1 << 20
DETAIL_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server and the model asked for.

    Attributes:
        base_url: without a path, for example http://127.0.0.1:8000.
        model: its name in the API.
        endpoint: path of completions.
        api_key: sent as a bearer token.
        timeout_s: longest wait for a whole reply.
    """

    base_url: str
    model: str
    endpoint: str = "/v1/completions"
    api_key: str | None = None
    timeout_s: float = 3600.0

    def open(self) -> aiohttp.ClientSession:
        """A session with as many connections as requests are under way."""
        return aiohttp.ClientSession(
            self.base_url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self.timeout_s),
            headers={"Authorization": f"Bearer {self.api_key}"} if self.api_key else None,
            read_bufsize=READ_LIMIT_BYTES,
        )


@dataclass(slots=True)
class Reply:
    """The reply; times are of `time.perf_counter`."""

    token_s: list[float] = field(default_factory=list)
    finished_s: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: str = ""
    detail: str = ""
    engine: Mapping[str, float] = field(default_factory=dict)


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    fastserve: dict[str, float] | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Event).decode


async def complete(session: aiohttp.ClientSession, target: Target, body: bytes) -> Reply:
    """Send one request, whose body is JSON with stream: true, and follow its reply to the end."""
    reply = Reply()
    try:
        async with session.post(target.endpoint, data=body, headers={"Content-Type": "application/json"}) as response:
            if response.status == 200:
                await _follow(response.content, reply)
            else:
                reply.error, reply.detail = f"HTTP {response.status}", (await response.text("utf-8", "replace"))
    except TimeoutError:
        reply.error, reply.detail = "timeout", f"no whole reply within {target.timeout_s:g} s"
    except (aiohttp.ClientError, OSError) as error:
        reply.error, reply.detail = type(error).__name__, str(error)
    except msgspec.MsgspecError as error:
        reply.error, reply.detail = "malformed event", str(error)
    reply.finished_s = time.perf_counter()
    reply.detail = reply.detail[:DETAIL_CHARACTERS]
    return reply


async def find_model(base_url: str, api_key: str | None) -> str:
    """The first model that the server lists.

    Raises:
        FastServeError: it does not answer, or lists none.
    """
    async with Target(base_url=base_url, model="", api_key=api_key, timeout_s=30.0).open() as session:
        try:
            async with session.get("/v1/models") as response:
                listed = await response.json(content_type=None)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FastServeError(f"{base_url} does not answer /v1/models: {error}") from None
    try:
        return str(listed["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise FastServeError(f"{base_url} lists no model; name it with --model, got {listed!r:.200}") from None


async def _follow(content: aiohttp.StreamReader, reply: Reply) -> None:
    """Take the events of a stream; all of one read have its time."""
    finished = False
    rest = b""
    async for data in content.iter_any():
        now_s = time.perf_counter()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # blank lines between events, and comments
            payload = line[5:].strip()
            if payload == b"[DONE]":
                finished = True
            else:
                finished |= _take(_decode(payload), now_s, reply)
    if not reply.error and not finished:
        reply.error, reply.detail = "cut off", f"the stream ended after {len(reply.token_s)} pieces"
    elif not reply.error and not reply.token_s:
        reply.error, reply.detail = "no tokens", "the reply was empty"


def _take(event: _Event, now_s: float, reply: Reply) -> bool:
    """Account for one event; True when it ends the completion."""
    if bytes(event.error) not in (b"", b"null"):
        reply.error, reply.detail = "error event", bytes(event.error).decode(errors="replace")
    if event.usage is not None:
        reply.prompt_tokens, reply.output_tokens = event.usage.prompt_tokens, event.usage.completion_tokens
        reply.engine = event.usage.fastserve or {}
    if not event.choices:
        return False
    reply.token_s.append(now_s)
    return event.choices[0].finish_reason is not None
