"""Sends a generation to its client, as one JSON object or as a stream, and stops it when the client leaves."""

import asyncio
import time
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from fastserve.log import get_logger
from fastserve.server.errors import ApiError, ClientGoneError, to_api_error
from fastserve.server.generation import Generation
from fastserve.server.in_flight import Ticket
from fastserve.server.interleave import Notice
from fastserve.server.replies import GatheredChoice, ReplyFormat
from fastserve.server.serving import Serving
from fastserve.server.sse import DONE, SSE_HEADERS, comment, event

# An error event to a client that does not read is given up after this.
ERROR_EVENT_TIMEOUT_S = 1.0

logger = get_logger(__name__)


class GenerationResponse(Response):
    """Runs one generation while it is sent.

    The status line waits for the first token, so that whatever goes wrong before it is a proper HTTP error.
    """

    def __init__(self, serving: Serving, generation: Generation, reply: ReplyFormat) -> None:
        super().__init__()
        self._serving = serving
        self._generation = generation
        self._plan = generation.plan
        self._reply = reply
        self._admitted = False
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = None
        try:
            with self._serving.in_flight.enter(self._plan.request_id) as ticket:
                await self._run(ticket, receive, send)
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
            self._serving.count_refusal(path, error)

    async def _run(self, ticket: Ticket, receive: Receive, send: Send) -> None:
        self._admitted = True
        plan = self._plan
        watch = asyncio.create_task(_watch_disconnect(receive, ticket))
        deadline = None
        if plan.deadline_s is not None:
            left_s = plan.arrival_s + plan.deadline_s - time.monotonic()
            late = self._generation.missed_deadline()
            deadline = asyncio.get_running_loop().call_later(left_s, ticket.interrupt, late)
        try:
            await (self._stream(send) if plan.stream else self._whole(send))
        finally:
            ticket.close()
            watch.cancel()
            if deadline is not None:
                deadline.cancel()
        self._log("finished")

    async def _stream(self, send: Send) -> None:
        plan, reply, usage = self._plan, self._reply, self._generation.usage
        unopened = set(range(plan.num_choices))
        async with aclosing(self._generation.items()) as items:
            async for choice, delta in items:
                if isinstance(delta, Notice):
                    if self._started:
                        await send(_body(comment({"index": choice} | delta.facts)))
                    continue
                if not self._started:
                    await self._start(send, SSE_HEADERS)
                chunk = reply.chunk(choice, delta, usage.as_json() if plan.continuous_usage else None)
                if choice in unopened:
                    unopened.discard(choice)
                    chunk = reply.opening(choice) + chunk
                if chunk:
                    await send(_body(chunk))
        tail = reply.usage_chunk(usage.as_json()) + DONE if plan.include_usage else DONE
        await send(_body(tail, more=False))

    async def _whole(self, send: Send) -> None:
        choices = [GatheredChoice() for _ in range(self._plan.num_choices)]
        async with aclosing(self._generation.items()) as items:
            async for choice, delta in items:
                choices[choice].add(delta)
        body = self._reply.whole(choices, self._generation.usage.as_json())
        await self._start(send, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        await send(_body(body, more=False))

    async def _start(self, send: Send, headers: dict[str, str]) -> None:
        rows = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        rows.append((b"x-request-id", self._plan.request_id.encode()))
        await send({"type": "http.response.start", "status": 200, "headers": rows})
        self._started = True

    async def _send_error(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._started:
            await error.response()(scope, receive, send)
            return
        if not self._plan.stream:  # half a JSON reply cannot be mended; the connection is cut
            return
        try:
            await asyncio.wait_for(send(_body(event(error.body()), more=False)), ERROR_EVENT_TIMEOUT_S)
        except TimeoutError:
            self._log("client does not read")

    def _log(self, what: str) -> None:
        usage = self._generation.usage
        logger.info(
            "%s %s: %d prompt + %d output tokens in %.3f s",
            self._plan.request_id,
            what,
            usage.prompt_tokens,
            usage.completion_tokens,
            time.monotonic() - self._plan.arrival_s,
            extra={"request_id": self._plan.request_id},
        )


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def _watch_disconnect(receive: Receive, ticket: Ticket) -> None:
    """The body has been read, so the next message of the client can only be its leaving."""
    while (await receive())["type"] != "http.disconnect":
        pass
    ticket.interrupt(ClientGoneError())
