"""uvicorn's HTTP/1.1 protocol with limits on what a peer can send, queue and hold, on every route and before any key check."""

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from fastserve.log import get_logger
from fastserve.server.descriptors import DescriptorWatch
from fastserve.server.errors import ApiError
from fastserve.server.requests.json_body import BODY_TIMEOUT_S, DISCARD_FACTOR

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128
HEAD_TIMEOUT_S = 15.0
# From the end of the head to the end of the body. A route that reads its body answers 408 before that.
REST_TIMEOUT_S = BODY_TIMEOUT_S + 5.0
STALLED_READER_S = 120.0
# The parser gets so many bytes at a time and stops once a request waits behind another: so one slice, 56 requests of the
# shortest kind, is the most that a connection can queue.
SLICE_BYTES = 1024
# What may wait unparsed before the socket is left alone too. Until then it is read on, which shows at once when the client
# leaves.
MAX_HELD_BYTES = 64 * 1024
# Beyond `max_body_bytes * DISCARD_FACTOR`: the framing of chunks, and heads.
FRAMING_BYTES = 1 << 20

logger = get_logger(__name__)


class GuardedHttpProtocol(HttpToolsProtocol):
    """Cuts a connection that sends too much or too slowly, or whose client has stopped reading.

    Bytes that are not yet parsed wait in `_held` while uvicorn has paused reading: because a request waits behind another
    one, or because the route has not taken the body that has come so far.

    A client that reads slower than the model writes fills its 64 KiB transport buffer; from then on the writer waits.
    When that buffer has not drained for `STALLED_READER_S` the connection is cut, which aborts its request.

    Args:
        max_body_bytes: of one request; what goes far beyond is cut, whether or not the route reads its body.
        descriptors: gets the file descriptor of every connection.
        on_refused: called as on_refused(path, error) for a request that is answered here, before any route; the path is
            empty where the request does not get as far as naming one.
    """

    def __init__(
        self,
        *args: Any,
        max_body_bytes: int,
        descriptors: DescriptorWatch | None = None,
        on_refused: Callable[[str, ApiError], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._on_refused = on_refused
        self.url = b""  # uvicorn sets it with the first request line, and a head may be refused before that
        self._max_message_bytes = max_body_bytes * DISCARD_FACTOR + FRAMING_BYTES
        self._descriptors = descriptors
        self._held = b""
        self._answered: RequestResponseCycle | None = (
            None  # the request whose reply is under way; `cycle` is the last parsed
        )
        self._in_head = True
        self._head_is_known = False  # what the parser reports of a head has been reported before
        self._framing_bytes = 0  # since the parser last reported a head, a chunk or a piece of body
        self._message_bytes = 0
        self._peer_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        super().connection_made(transport)
        self.flow = _HoldingFlow(transport, self._read_on_soon)
        if self._descriptors is not None:
            self._descriptors.note(transport.get_extra_info("socket").fileno())
        self._await_peer(HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._held = b""
        self._stop_awaiting_peer()
        self._stop_stall_timer()
        super().connection_lost(exc)
        if self._answered is not None and not self._answered.response_complete:  # uvicorn tells only `cycle`
            self._answered.disconnected = True
            self._answered.message_event.set()

    def data_received(self, data: bytes) -> None:
        self._held += data
        if not self.flow.read_paused:
            self._parse_held()
        if len(self._held) > MAX_HELD_BYTES and not self.transport.is_closing():
            self.transport.pause_reading()

    def _parse_held(self) -> None:
        held, start = memoryview(self._held), 0
        while start < len(held) and not self.flow.read_paused and not self.transport.is_closing():
            self._parse(held[start : start + SLICE_BYTES])
            start += SLICE_BYTES
        self._held = b"" if self.transport.is_closing() else bytes(held[start:])

    def _parse(self, data: memoryview) -> None:
        self._unset_keepalive_if_required()
        if self._in_head and self._peer_timer is None:
            self._await_peer(HEAD_TIMEOUT_S)
        self._framing_bytes += len(data)
        self._message_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(400, "this is not a valid HTTP/1.1 request", "invalid_http")
        if self._framing_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the request head must be at most {MAX_HEAD_BYTES} bytes", "head_too_large")
        elif self._message_bytes > self._max_message_bytes:
            self._cut("its request does not end")

    def _feed(self, data: memoryview) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The client offers to change the protocol (Java's does in every first request). It stays HTTP/1.1: the parser,
            # which gives up after such a head, is replaced by one that has seen a head of the same framing without it.
            framing = [row for row in self.headers if row[0] in (b"content-length", b"transfer-encoding")]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._head_is_known = True
            self.parser.feed_data(b"\r\n".join([b"POST / HTTP/1.1", *map(b": ".join, framing), b"", b""]))
            self._feed(data[upgrade.args[0] :])

    def _read_on_soon(self) -> None:
        self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self.pipeline or self.transport.is_closing():
            return
        self.flow.read_paused = False
        self._parse_held()
        if len(self._held) <= MAX_HELD_BYTES and not self.transport.is_closing():
            self.transport.resume_reading()

    def on_message_begin(self) -> None:
        if not self._head_is_known:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._head_is_known:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_is_known or not self._in_head:  # a trailer; nothing here has a use for one
            return
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._refuse(431, f"a request must have at most {MAX_HEADERS} headers", "too_many_headers")
            raise ValueError("too many headers")  # ends the parser

    def on_headers_complete(self) -> None:
        if self._head_is_known:
            self._head_is_known = False
            return
        self._in_head = False
        self._framing_bytes = 0
        self._await_peer(REST_TIMEOUT_S)
        super().on_headers_complete()
        if not self.pipeline:
            self._answered = self.cycle

    def on_chunk_header(self) -> None:
        """Called by the parser; uvicorn does not need it."""
        self._framing_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():  # says the parser, without a look at the body; see `_feed`
            return
        super().on_message_complete()
        self._in_head = True
        self._framing_bytes = self._message_bytes = 0
        self._stop_awaiting_peer()

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALLED_READER_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()

    def _await_peer(self, timeout_s: float) -> None:
        self._stop_awaiting_peer()
        self._peer_timer = self.loop.call_later(timeout_s, self._on_late_peer, timeout_s)

    def _on_late_peer(self, timeout_s: float) -> None:
        # While reading is paused, or while the next head comes in during a reply, the client is not late.
        if self.flow.read_paused or (self._in_head and self._answering()):
            self._await_peer(timeout_s)
        else:
            self._cut(f"its request took more than {timeout_s:g} s")

    def _stop_awaiting_peer(self) -> None:
        if self._peer_timer is not None:
            self._peer_timer.cancel()
            self._peer_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer what never became a request, and close; cut where the answer would be taken for that to another one."""
        if self.transport.is_closing():
            return
        if not self._in_head or self._answering():
            self._cut(message)
            return
        error = ApiError(status, message, code=code)
        if self._on_refused is not None:
            self._on_refused(self.url.partition(b"?")[0].decode("latin-1"), error)
        body = error.body()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _cut(self, why: str) -> None:
        logger.debug("a connection is cut: %s", why)
        self.transport.abort()


class _HoldingFlow(FlowControl):
    """uvicorn's flow control between its parser and what is held for it, instead of the socket."""

    def __init__(self, transport: asyncio.Transport, read_on: Callable[[], None]) -> None:
        super().__init__(transport)
        self._read_on = read_on

    def pause_reading(self) -> None:
        self.read_paused = True

    def resume_reading(self) -> None:
        if self.read_paused:
            self._read_on()
