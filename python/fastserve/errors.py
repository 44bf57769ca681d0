"""Errors of FastServe. The C++ core raises the first four as well."""

from fastserve._C import DeviceError, FastServeError, InternalError, InvalidArgumentError


class CheckpointError(FastServeError):
    """A checkpoint is truncated, malformed or not supported; the message names file and tensor."""


class DeviceLostError(DeviceError):
    """The device failed and nothing this process keeps on it can be trusted; only a new process can continue."""


class EngineDeadError(FastServeError):
    """The engine process ended or stopped answering; running requests are lost."""


class OverloadedError(FastServeError):
    """The engine refuses a request because its queue is full or because it is draining; try again later."""


class RequestFailedError(FastServeError):
    """One request failed in the engine; other requests are not affected."""


_LONGEST_CAUSE_CHARS = 200


def cause_of(error: BaseException) -> str:
    """Describe an error in one short line, for the client whose request failed; the log has the rest."""
    first_line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first_line}"[:_LONGEST_CAUSE_CHARS]


__all__ = [
    "CheckpointError",
    "DeviceError",
    "DeviceLostError",
    "EngineDeadError",
    "FastServeError",
    "InternalError",
    "InvalidArgumentError",
    "OverloadedError",
    "RequestFailedError",
    "cause_of",
]
