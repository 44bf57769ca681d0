"""Messages between the frontend and the engine process: msgpack of plain fields, tagged arrays, no pickle.

One is the request itself: an `EngineRequest`, which is a map of its fields.

Every other message of the frontend that concerns one request begins with its `request_id`, so that even a message which
does not decode can be answered with an error for that request.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

import msgspec

from fastserve.config import EngineConfig
from fastserve.engine.request import EngineRequest
from fastserve.errors import (
    CheckpointError,
    DeviceError,
    EngineDeadError,
    FastServeError,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    RequestFailedError,
)
from fastserve.types import EngineInfo, EngineOutput, EngineStats

_T = TypeVar("_T")


class ProtocolError(FastServeError):
    """Raised for bytes that are not a message."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of all other messages: the class name, then the fields."""


class EngineStart(_Message, frozen=True):
    """What an engine process is started with, on its standard input.

    Attributes:
        socket_path: Unix socket of the frontend.
        core_factory: "module:function" that makes the core from (config, progress=...).
        parent_pid: the process ends with this one.
        log_level, json_logs: as the parent logs.
    """

    config: EngineConfig
    socket_path: str
    core_factory: str
    parent_pid: int
    log_level: str
    json_logs: bool


class Abort(_Message, frozen=True):
    """Abort a sequence; its last output is still delivered."""

    request_id: int


class Stop(_Message, frozen=True):
    """Stop a sequence at a stop string that ends its answer after `num_tokens` outputs; its last output is still delivered."""

    request_id: int
    num_tokens: int


class Explain(_Message, frozen=True):
    """Ask for `ExplainReply`."""

    request_id: int
    call_id: int


class GetStats(_Message, frozen=True):
    """Ask for `StatsReply`."""

    call_id: int


class Shutdown(_Message, frozen=True):
    """Close the core and exit."""


class Progress(_Message, frozen=True):
    """A step of the start is done."""

    stage: str
    done: int
    total: int


class Ready(_Message, frozen=True):
    """The engine takes requests."""

    info: EngineInfo


class Outputs(_Message, frozen=True):
    """All outputs of one step."""

    outputs: list[EngineOutput]


class Event(_Message, frozen=True):
    """A watched request changed its place in the scheduler."""

    request_id: int
    facts: dict[str, object]


class StatsReply(_Message, frozen=True):
    """Answer to `GetStats`."""

    call_id: int
    stats: EngineStats


class ExplainReply(_Message, frozen=True):
    """Answer to `Explain`; None = not in the engine."""

    call_id: int
    facts: dict[str, object] | None


class Heartbeat(_Message, frozen=True):
    """The engine loop is alive; sent when nothing else was for a while."""


class ErrorKind(StrEnum):
    """The exception that an `Error` message carries."""

    INVALID = "invalid"
    OVERLOADED = "overloaded"
    CHECKPOINT = "checkpoint"
    DEVICE = "device"
    INTERNAL = "internal"
    FAILED = "failed"


class Error(_Message, frozen=True):
    """A failure of a call, of a request, of a message that names neither, or (`fatal`) of the engine, which then exits."""

    kind: ErrorKind
    message: str
    request_id: int | None = None
    call_id: int | None = None
    fatal: bool = False


ToEngine = EngineRequest | Abort | Stop | Explain | GetStats | Shutdown
ToFrontend = Progress | Ready | Outputs | Event | StatsReply | ExplainReply | Heartbeat | Error

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_to_frontend = msgspec.msgpack.Decoder(ToFrontend)
_start = msgspec.msgpack.Decoder(EngineStart)


def encode(message: ToEngine | ToFrontend | EngineStart) -> bytes:
    """Return the bytes of a message."""
    return _encoder.encode(message)


def decode_to_engine(raw: bytes) -> ToEngine:
    """Read a message of the frontend; raises ProtocolError."""
    return _decode(_to_engine, raw)


def decode_to_frontend(raw: bytes) -> ToFrontend:
    """Read a message of the engine; raises ProtocolError."""
    return _decode(_to_frontend, raw)


def decode_start(raw: bytes) -> EngineStart:
    """Read what an engine process is started with; raises ProtocolError."""
    return _decode(_start, raw)


def plain_facts(facts: Mapping[str, object]) -> dict[str, object]:
    """Return what the scheduler says of a request with every value in a type that messages can carry."""
    plain: dict[str, object] = msgspec.to_builtins(dict(facts), enc_hook=str, str_keys=True)
    return plain


def request_id_of(raw: bytes) -> int | None:
    """Return the id of the request in a message that does not decode, as far as it can be read."""
    try:
        value = msgspec.msgpack.decode(raw)
    except Exception:
        return None
    match value:
        case ["Abort" | "Stop" | "Explain", int(request_id), *_] | {"request_id": int(request_id)}:
            return None if isinstance(request_id, bool) else request_id
    return None


_KINDS: tuple[tuple[type[FastServeError], ErrorKind], ...] = (
    (InvalidArgumentError, ErrorKind.INVALID),
    (OverloadedError, ErrorKind.OVERLOADED),
    (CheckpointError, ErrorKind.CHECKPOINT),
    (DeviceError, ErrorKind.DEVICE),
    (InternalError, ErrorKind.INTERNAL),
)


def error_of(
    error: Exception, *, request_id: int | None = None, call_id: int | None = None, fatal: bool = False
) -> Error:
    """Return the message for an exception."""
    for error_type, kind in _KINDS:
        if isinstance(error, error_type):
            return Error(kind, str(error), request_id, call_id, fatal)
    return Error(ErrorKind.FAILED, f"{type(error).__name__}: {error}", request_id, call_id, fatal)


def exception_of(error: Error) -> FastServeError:
    """Return the exception for a message; unexpected ones become EngineDeadError (fatal) or RequestFailedError."""
    unexpected = EngineDeadError if error.fatal else RequestFailedError
    return {kind: error_type for error_type, kind in _KINDS}.get(error.kind, unexpected)(error.message)


def _decode(decoder: "msgspec.msgpack.Decoder[_T]", raw: bytes) -> _T:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a message of {len(raw)} bytes does not decode: {error}") from error
