"""Sends a generation to its client, as one JSON object or as a stream, and stops it when the client leaves."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from fastserve.log import get_logger
from fastserve.server.errors import ApiError, ClientGoneError, to_api_error
from fastserve.server.in_flight import RequestGuard
from fastserve.server.requests.schema import StreamOptions
from fastserve.server.responses.formatter import GatheredChoice, ResponseFormatter
from fastserve.server.responses.generation import Generation
from fastserve.server.responses.sse import SSE_HEADERS, comment
from fastserve.server.server_state import ServerState
from fastserve.types import CompletionDelta, RequestEvent

# An error event to a client that does not read is given up after this.
ERROR_EVENT_TIMEOUT_S = 1.0
# Below this, wording a reply takes a few milliseconds.
INLINE_SCORED_TOKENS = 256

logger = get_logger(__name__)


class GenerationResponse(Response):
    """Runs one generation while it is sent.

    The status line waits for the first token, so that whatever goes wrong before it is a proper HTTP error.
    """

    def __init__(
        self,
        state: ServerState,
        generation: Generation,
        formatter: ResponseFormatter,
        stream: StreamOptions | None,
        headers: Mapping[str, str],
    ) -> None:
        """Prepare the reply; `stream` None = in one piece. `headers` come on top of those of its form."""
        super().__init__()
        self._extra_headers = headers
        self._state = state
        self._generation = generation
        self._formatter = formatter
        self._stream = stream
        self._admitted = False
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = None
        try:
            with self._state.in_flight.enter(self._generation.request_id) as guard:
                await self._run(guard, receive, send)
        except ClientGoneError as failure:
            self._generation.conclude(failure)
            self._log("client left")
        except Exception as failure:  # the reply is the place where every failure of a request ends
            error = to_api_error(failure)
            self._count(failure, error, scope["path"])
        finally:
            self._generation.conclude(None)
        if error is not None:
            self._log(f"failed: {error.message}")
            await self._send_error(error, scope, receive, send)

    def _count(self, failure: Exception, error: ApiError, path: str) -> None:
        """Count a request that did not run as refused, any other as ended."""
        if self._admitted and not self._generation.refused:
            self._generation.conclude(failure)
        else:
            self._generation.refused = True
            self._state.count_refusal(path, error)

    async def _run(self, guard: RequestGuard, receive: Receive, send: Send) -> None:
        self._admitted = True
        generation = self._generation
        watch = asyncio.create_task(_watch_disconnect(receive, guard))
        deadline = None
        if generation.scheduling.deadline_s is not None:
            left_s = generation.arrival_s + generation.scheduling.deadline_s - time.monotonic()
            late = generation.missed_deadline()
            deadline = asyncio.get_running_loop().call_later(left_s, guard.interrupt, late)
        try:
            await (self._send_whole(send) if self._stream is None else self._send_stream(self._stream, send))
        finally:
            guard.close()
            watch.cancel()
            if deadline is not None:
                deadline.cancel()
        self._log("finished")

    async def _send_stream(self, stream: StreamOptions, send: Send) -> None:
        generation, formatter, usage = self._generation, self._formatter, self._generation.usage
        unopened = set(range(generation.num_choices))
        async with aclosing(generation.items(watch=stream.include_events)) as items:
            async for item in items:
                if isinstance(item, RequestEvent):
                    if self._started:
                        await send(_body(comment({"index": item.index} | item.facts)))
                    continue
                if not self._started:
                    await self._start(send, SSE_HEADERS)
                chunk = formatter.chunk(item, usage.as_json() if stream.usage_in_chunks else None)
                if item.index in unopened:
                    unopened.discard(item.index)
                    chunk = formatter.opening(item.index) + chunk
                if chunk:
                    await send(_body(chunk))
        await send(_body(formatter.ending(usage.as_json(), include_usage=stream.include_usage), more=False))

    async def _send_whole(self, send: Send) -> None:
        choices = [GatheredChoice() for _ in range(self._generation.num_choices)]
        async with aclosing(self._generation.items()) as items:
            async for item in items:
                if isinstance(item, CompletionDelta):
                    choices[item.index].add(item)
        body = await self._whole(choices)
        await self._start(send, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        await send(_body(body, more=False))

    async def _whole(self, choices: list[GatheredChoice]) -> bytes:
        """The reply; one with thousands of scored tokens is worded on a thread."""
        usage = self._generation.usage.as_json()
        num_scored = sum(len(part.ranks) // 4 for choice in choices for part in choice.prompt_logprobs)
        if num_scored <= INLINE_SCORED_TOKENS:
            return self._formatter.whole(choices, usage)
        return await self._state.text_threads.run("wording the reply", self._formatter.whole, choices, usage)

    async def _start(self, send: Send, headers: dict[str, str]) -> None:
        rows = [(name.lower().encode(), value.encode()) for name, value in ({**headers, **self._extra_headers}).items()]
        if "X-Request-Id" not in self._extra_headers:
            rows.append((b"x-request-id", self._generation.request_id.encode()))
        await send({"type": "http.response.start", "status": 200, "headers": rows})
        self._started = True

    async def _send_error(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._started:
            await error.response()(scope, receive, send)
            return
        if self._stream is None:  # half a JSON reply cannot be mended; the connection is cut
            return
        try:
            await asyncio.wait_for(send(_body(self._formatter.failure(error), more=False)), ERROR_EVENT_TIMEOUT_S)
        except TimeoutError:
            self._log("client does not read")

    def _log(self, what: str) -> None:
        usage = self._generation.usage
        logger.info(
            "%s %s: %d prompt + %d output tokens in %.3f s",
            self._generation.request_id,
            what,
            usage.prompt_tokens,
            usage.completion_tokens,
            time.monotonic() - self._generation.arrival_s,
            extra={"request_id": self._generation.request_id},
        )


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def _watch_disconnect(receive: Receive, guard: RequestGuard) -> None:
    """The body has been read, so the next message of the client can only be its leaving."""
    while (await receive())["type"] != "http.disconnect":
        pass
    guard.interrupt(ClientGoneError())
