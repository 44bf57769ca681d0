"""Errors of FastServe. The first four are raised by the C++ core as well."""

from fastserve._C import DeviceError, FastServeError, InternalError, InvalidArgumentError


class CheckpointError(FastServeError):
    """A checkpoint folder is truncated, mis-shaped or of a kind that is not supported; names file and tensor."""


class DeviceLostError(DeviceError):
    """The device failed so that nothing this process holds on it can be trusted; only a new process can go on."""


class EngineDeadError(FastServeError):
    """The engine process ended or stopped answering; running requests are lost."""


class OverloadedError(FastServeError):
    """The engine refuses a request because its queue is full or it is draining; try again later."""


class RequestFailedError(FastServeError):
    """One request failed inside the engine; other requests are not affected."""


_LONGEST_CAUSE_CHARS = 200


def cause_of(error: BaseException) -> str:
    """Name an error in one short line, for the client whose request it ended; the log has the rest."""
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
