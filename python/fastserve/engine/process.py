"""The engine process: one thread owns the core, steps it and answers the frontend.

Started as `python -m fastserve.engine.process` with an `EngineStart` message on standard input: a fresh interpreter
inherits no locks, threads or CUDA state, needs no `__main__` guard in the user's script, and nothing is pickled.
"""

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from fastserve.child import die_with_parent
from fastserve.config import EngineConfig
from fastserve.engine.channel import EngineChannel
from fastserve.engine.pacing import LONGEST_WAIT_S
from fastserve.engine.protocol import (
    Abort,
    Error,
    ErrorKind,
    Event,
    Explain,
    ExplainReply,
    GetStats,
    Heartbeat,
    Outputs,
    Progress,
    ProtocolError,
    Ready,
    Shutdown,
    StatsReply,
    Stop,
    ToEngine,
    decode_start,
    decode_to_engine,
    error_of,
    plain_facts,
    request_id_of,
)
from fastserve.engine.request import EngineRequest
from fastserve.engine.watch import RequestWatch
from fastserve.errors import FastServeError, InvalidArgumentError, OverloadedError
from fastserve.log import configure_logging, get_logger
from fastserve.types import EngineInfo, EngineOutput, EngineStats

logger = get_logger(__name__)

HEARTBEAT_INTERVAL_S = 0.5
DEFAULT_CORE_FACTORY = "fastserve.engine.core:EngineCore.from_config"


class Core(Protocol):
    """The interface of `EngineCore` that the loop requires; see there."""

    info: EngineInfo

    def add_request(self, request: EngineRequest) -> None: ...
    def abort(self, request_id: int) -> None: ...
    def stop(self, request_id: int, num_tokens: int) -> None: ...
    def planning_delay_s(self) -> float: ...
    def step(self) -> list[EngineOutput]: ...
    def has_work(self) -> bool: ...
    def stats(self) -> EngineStats: ...
    def explain(self, request_id: int) -> dict[str, object] | None: ...
    def close(self) -> None: ...


CoreFactory = Callable[..., Core]


def load_core_factory(name: str) -> CoreFactory:
    """Import "module:attribute"; called as factory(config, progress=...).

    Raises:
        InvalidArgumentError: there is no such function.
    """
    module, _, path = name.partition(":")
    try:
        found: object = importlib.import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidArgumentError(
            f"core_factory must be importable as module:function, got {name!r}: {error}"
        ) from error
    if not callable(found):
        raise InvalidArgumentError(f"core_factory must name a function, got {name!r}")
    return found


def run_engine(config: EngineConfig, socket_path: str, *, core_factory: str, parent_pid: int) -> int:
    """Serve a frontend until it closes, disappears, or the core fails; return the exit status.

    Args:
        config: of the core.
        socket_path: Unix socket that the frontend has bound.
        core_factory: see `load_core_factory`.
        parent_pid: the frontend's process.
    """
    channel = EngineChannel(socket_path)
    try:
        try:
            core = load_core_factory(core_factory)(config, progress=partial(_send_progress, channel))
        except Exception as error:
            if not isinstance(error, FastServeError):
                logger.exception("the engine did not start")
            channel.send(error_of(error, fatal=True))
            return 1
        try:
            channel.send(Ready(core.info))
            EngineLoop(core, channel, parent_pid).run()
        except Exception as error:
            logger.exception("the engine failed; the process ends")
            channel.send(error_of(error, fatal=True))
            return 1
        finally:
            core.close()
        return 0
    finally:
        channel.close()


def _send_progress(channel: EngineChannel, stage: str, done: int, total: int) -> None:
    channel.send(Progress(stage, int(done), int(total)))


class EngineLoop:
    """Receives messages, steps the core and sends outputs, all on the calling thread."""

    def __init__(self, core: Core, channel: EngineChannel, parent_pid: int) -> None:
        """Serve `channel` with `core` while the process `parent_pid` is our parent."""
        self._core = core
        self._channel = channel
        self._parent_pid = parent_pid
        self._watch = RequestWatch(core.explain)
        self._last_sent_s = 0.0
        self._stopping = False

    def run(self) -> None:
        """Step until a stop message arrives or the parent is gone; raises what `step` raises."""
        while not self._stopping and os.getppid() == self._parent_pid:
            self._step()

    def _step(self) -> None:
        core, channel = self._core, self._channel
        if not core.has_work():
            self._take_in(channel.receive(HEARTBEAT_INTERVAL_S))
        else:
            self._take_in(channel.receive())
            # The later the next iteration is planned, the more new requests it can hold.
            while not self._stopping and (delay_s := core.planning_delay_s()) > 0.0:
                self._take_in(channel.receive(min(delay_s, LONGEST_WAIT_S)))
                self._beat()
        if core.has_work() and not self._stopping and (outputs := core.step()):
            self._send(Outputs(outputs))
        for request_id, facts in self._watch.changes(time.monotonic()):
            self._send(Event(request_id, plain_facts(facts)))
        self._beat()

    def _beat(self) -> None:
        if time.monotonic() - self._last_sent_s >= HEARTBEAT_INTERVAL_S:
            self._send(Heartbeat())

    def _send(self, message: Outputs | Event | StatsReply | ExplainReply | Heartbeat | Error) -> None:
        self._channel.send(message)
        self._last_sent_s = time.monotonic()

    def _take_in(self, messages: list[bytes]) -> None:
        for raw in messages:
            try:
                message = decode_to_engine(raw)
            except ProtocolError as error:
                logger.error("%s", error)
                self._send(Error(ErrorKind.INVALID, str(error), request_id_of(raw)))
                continue
            self._handle(message)

    def _handle(self, message: ToEngine) -> None:
        """Handle a message; a failure is an error of its request or call alone."""
        try:
            self._dispatch(message)
        except Exception as error:
            if not isinstance(error, InvalidArgumentError | OverloadedError):
                logger.exception("%s failed", type(message).__name__)
            request_id, call_id = getattr(message, "request_id", None), getattr(message, "call_id", None)
            self._send(error_of(error, request_id=request_id, call_id=call_id))

    def _dispatch(self, message: ToEngine) -> None:
        match message:
            case EngineRequest():
                self._core.add_request(message)
                if message.watch:
                    self._watch.add(message.request_id)
            case Abort():
                self._core.abort(message.request_id)
            case Stop():
                self._core.stop(message.request_id, message.num_tokens)
            case GetStats():
                self._send(StatsReply(message.call_id, self._core.stats()))
            case Explain():
                facts = self._core.explain(message.request_id)
                self._send(ExplainReply(message.call_id, None if facts is None else plain_facts(facts)))
            case Shutdown():
                self._stopping = True


def main() -> int:
    """Entry of the process; see the module's docstring."""
    # A terminal's Ctrl-C and a service manager's SIGTERM reach the whole process group; the frontend decides what they
    # mean (it may drain first) and tells this process, which the kernel kills if the frontend dies.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    start = decode_start(sys.stdin.buffer.read())
    configure_logging(start.log_level, json_lines=start.json_logs)
    if not die_with_parent(start.parent_pid):
        return 1
    return run_engine(start.config, start.socket_path, core_factory=start.core_factory, parent_pid=start.parent_pid)


if __name__ == "__main__":
    sys.exit(main())
