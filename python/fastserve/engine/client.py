"""The frontend's side of an engine process: start, messages both ways, calls with a reply, death."""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

from fastserve.config import EngineConfig
from fastserve.engine.channel import FrontendChannel
from fastserve.engine.launch import EngineProcess
from fastserve.engine.protocol import (
    EngineStart,
    Error,
    Event,
    Explain,
    ExplainReply,
    GetStats,
    Outputs,
    Progress,
    ProtocolError,
    Ready,
    Shutdown,
    StatsReply,
    ToEngine,
    decode_to_frontend,
    exception_of,
)
from fastserve.errors import EngineDeadError, FastServeError
from fastserve.log import get_logger, log_settings
from fastserve.types import EngineInfo, EngineOutput, EngineStats

logger = get_logger(__name__)

CLOSE_GRACE_S = 5.0
# After the process has ended its last message may still be on its way through the socket.
_LAST_WORDS_S = 0.1

ProgressCallback = Callable[[str, int, int], None]
Facts = dict[str, object]


@dataclass(frozen=True, slots=True)
class EngineListener:
    """Callbacks of the client, called in the event loop.

    Attributes:
        on_outputs: the outputs of one step came.
        on_event: a watched sequence moved.
        on_refused: the engine did not take a sequence.
        on_death: nothing more will come.
    """

    on_outputs: Callable[[list[EngineOutput]], None]
    on_event: Callable[[int, Facts], None]
    on_refused: Callable[[int, FastServeError], None]
    on_death: Callable[[FastServeError], None]


class EngineClient:
    """One engine process. Everything is called from the event loop in which it was made."""

    def __init__(self, progress: ProgressCallback | None = None) -> None:
        """Open the socket; `progress(stage, done, total)` is called while the engine loads."""
        self._listener: EngineListener | None = None
        self._progress = progress
        self._channel = FrontendChannel()
        self._process: EngineProcess | None = None
        self._ready: asyncio.Future[EngineInfo] = asyncio.get_running_loop().create_future()
        self._last_heard_s = time.monotonic()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._call_ids = itertools.count()
        self._dead: FastServeError | None = None

    async def start(self, config: EngineConfig, core_factory: str) -> EngineInfo:
        """Start the process; return when the engine takes requests. Errors: see `AsyncEngine.start`."""
        level, json_logs = log_settings()
        self._channel.listen(self._on_message)
        start = EngineStart(config, self._channel.path, core_factory, os.getpid(), level, json_logs)
        self._process = EngineProcess(start, self._on_exit)
        return await self._ready

    def listen(self, listener: EngineListener) -> None:
        """Report to `listener` from now on. Call it before the first sequence is sent, so that no report is missed."""
        self._listener = listener

    @property
    def is_alive(self) -> bool:
        """Whether the process runs, is ready and has not failed."""
        return self._dead is None and self._ready.done() and self._process is not None and self._process.is_running

    @property
    def death(self) -> str | None:
        """Why the process ended or failed; None while it is not known to have ended."""
        return None if self._dead is None else str(self._dead)

    @property
    def pid(self) -> int | None:
        """Process id of the engine; None before its start."""
        return None if self._process is None else self._process.pid

    def heartbeat_age_s(self) -> float:
        """Return seconds since anything came from the engine loop."""
        self._channel.receive()  # what has come is not old because this process was busy
        return time.monotonic() - self._last_heard_s

    def check_alive(self) -> None:
        """Raise EngineDeadError unless the engine lives."""
        if self._dead is not None:
            raise EngineDeadError(str(self._dead))

    def send(self, message: ToEngine) -> None:
        """Send a message without waiting; raises EngineDeadError."""
        self._channel.send(message)

    async def stats(self) -> EngineStats:
        """Ask for the engine's counters; raises EngineDeadError."""
        return await self._call(GetStats)

    async def explain(self, sequence_id: int) -> Facts | None:
        """Ask for the scheduler's facts about a sequence; raises EngineDeadError."""
        return await self._call(lambda call_id: Explain(sequence_id, call_id))

    async def close(self, *, grace_s: float = CLOSE_GRACE_S) -> None:
        """End the process, by force after `grace_s`, and close the socket; may be called again."""
        self._die(EngineDeadError("the engine was closed"))
        try:
            if self._process is not None:
                with contextlib.suppress(EngineDeadError):
                    self._channel.send(Shutdown())
                await self._process.stop(grace_s)
        finally:
            self._channel.close()

    @overload
    async def _call(self, make: type[GetStats]) -> EngineStats: ...

    @overload
    async def _call(self, make: Callable[[int], Explain]) -> Facts | None: ...

    async def _call(self, make: Callable[[int], ToEngine]) -> object:
        self.check_alive()
        call_id = next(self._call_ids)
        reply = self._calls[call_id] = asyncio.get_running_loop().create_future()
        try:
            self._channel.send(make(call_id))
            return await reply
        finally:
            del self._calls[call_id]

    def _on_message(self, raw: bytes) -> None:
        self._last_heard_s = time.monotonic()
        try:
            message = decode_to_frontend(raw)
        except ProtocolError as error:  # outputs may be lost: no stream can be trusted any more
            self._die(EngineDeadError(f"the engine process sent something else than a message: {error}"), kill=True)
            return
        listener = self._listener
        match message:
            case Outputs() if listener is not None:
                listener.on_outputs(message.outputs)
            case StatsReply():
                self._reply(message.call_id, message.stats)
            case ExplainReply():
                self._reply(message.call_id, message.facts)
            case Event() if listener is not None:
                listener.on_event(message.request_id, message.facts)
            case Progress():
                self._report(message)
            case Ready():
                self._ready.set_result(message.info)
            case Error():
                self._on_error(message)

    def _report(self, message: Progress) -> None:
        if self._progress is not None:
            self._progress(message.stage, message.done, message.total)

    def _reply(self, call_id: int, value: object | FastServeError) -> None:
        reply = self._calls.get(call_id)
        if reply is None or reply.done():
            return
        if isinstance(value, FastServeError):
            reply.set_exception(value)
        else:
            reply.set_result(value)

    def _on_error(self, error: Error) -> None:
        if error.fatal:
            started = self._ready.done()
            self._die(EngineDeadError(f"the engine failed: {error.message}") if started else exception_of(error))
        elif error.call_id is not None:
            self._reply(error.call_id, exception_of(error))
        elif error.request_id is not None and self._listener is not None:
            self._listener.on_refused(error.request_id, exception_of(error))
        else:
            logger.error("the engine refused a message: %s", error.message)

    def _on_exit(self, status: int) -> None:
        if self._dead is None:
            asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._on_lost, status)

    def _on_lost(self, status: int) -> None:
        self._channel.receive()
        self._die(EngineDeadError(f"the engine process ended with status {status}"))

    def _die(self, error: FastServeError, *, kill: bool = False) -> None:
        """Fail all pending calls and requests; later calls change nothing."""
        if self._dead is not None:
            return
        self._dead = error
        if kill and self._process is not None:
            self._process.kill()
        if not self._ready.done():
            self._ready.set_exception(error)
        for call_id in self._calls:
            self._reply(call_id, EngineDeadError(str(error)))
        if self._listener is not None:
            self._listener.on_death(error)
