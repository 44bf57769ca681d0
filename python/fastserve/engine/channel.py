"""The two ends of the frontend-engine connection: a ZeroMQ pair over a Unix socket that only its owner can reach."""

import asyncio
import os
from collections.abc import Callable

import zmq

from fastserve.engine.protocol import ToEngine, ToFrontend, encode
from fastserve.engine.run_folder import SOCKET, RunFolder
from fastserve.errors import EngineDeadError, InvalidArgumentError

_LINGER_MS = 1000
_MAX_MESSAGES_PER_TURN = 64
# Behind the folder for temporary files.
_ROOM_FOR = f"/fastserve-xxxxxxxx/{SOCKET}"


def _pair(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    # No limit: neither side may ever block on the other. What can be in flight is bounded by the requests admitted.
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.LINGER, _LINGER_MS)
    return socket


def _has_messages(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


class FrontendChannel:
    """The frontend's end; belongs to one event loop.

    ZeroMQ's descriptor is edge-triggered: it must be drained after each wake-up and looked at after each send.
    """

    def __init__(self) -> None:
        """Bind in a folder of our own; the socket has mode 0600."""
        self._folder = RunFolder()
        self.path = str(self._folder.path / SOCKET)
        self._context = zmq.Context(io_threads=1)
        self._socket = _pair(self._context)
        old_umask = os.umask(0o177)
        try:
            self._socket.bind(f"ipc://{self.path}")
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            self._folder.remove()
            raise InvalidArgumentError(
                f"the socket to the engine cannot be made at {self.path}: {error.strerror}; set TMPDIR to a folder with a"
                f" path of at most {zmq.IPC_PATH_MAX_LEN - len(_ROOM_FOR)} bytes that can hold sockets"
            ) from error
        finally:
            os.umask(old_umask)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_message: Callable[[bytes], None] | None = None

    def listen(self, on_message: Callable[[bytes], None]) -> None:
        """Call `on_message` in the running loop for each message received."""
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._loop.add_reader(int(self._socket.getsockopt(zmq.FD)), self.receive)
        self._loop.call_soon(self.receive)

    def receive(self) -> None:
        """Handle the messages that have arrived; after many of them, yield to the event loop."""
        for _ in range(_MAX_MESSAGES_PER_TURN):
            if self._on_message is None or not _has_messages(self._socket):
                return
            self._on_message(self._socket.recv())
        if self._loop is not None:
            self._loop.call_soon(self.receive)

    def send(self, message: ToEngine) -> None:
        """Send without blocking; raises EngineDeadError when the engine is gone."""
        if self._loop is None:
            raise EngineDeadError("the connection to the engine process is closed")
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again as error:
            raise EngineDeadError("the engine process has gone") from error
        if _has_messages(self._socket):
            self._loop.call_soon(self.receive)

    def close(self) -> None:
        """Close the socket and remove its folder; may be called again."""
        if self._loop is not None:
            self._loop.remove_reader(int(self._socket.getsockopt(zmq.FD)))
        self._loop = self._on_message = None
        self._context.destroy(linger=0)
        self._folder.remove()


class EngineChannel:
    """The engine process's end; belongs to the engine thread."""

    def __init__(self, path: str) -> None:
        """Connect to the frontend's socket."""
        self._context = zmq.Context(io_threads=1)
        self._socket = _pair(self._context)
        self._socket.connect(f"ipc://{path}")

    def receive(self, wait_s: float = 0.0) -> list[bytes]:
        """Return all messages that have come; wait at most this long (to a millisecond) for the first."""
        received: list[bytes] = []
        if wait_s >= 0.001:
            self._socket.poll(int(wait_s * 1000))
        while _has_messages(self._socket):
            received.append(self._socket.recv())
        return received

    def send(self, message: ToFrontend) -> None:
        """Queue a message; never blocks while the frontend lives."""
        self._socket.send(encode(message))

    def close(self) -> None:
        """Send what is queued, for at most a second, and close."""
        self._socket.close()
        self._context.term()
