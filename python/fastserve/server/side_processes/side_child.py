"""The child's half of a side process: take a piece of work from the parent, answer, take the next.

A side process does what would stop the event loop and cannot be done in a thread: work that holds the GIL, and work that
may never end. See `side_pool` for the parent's half.
"""

import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from fastserve.child import die_with_parent

# Memory that one piece of work may take beyond what the process had at start.
WORK_MEMORY_BYTES = 1 << 30
_LENGTH = struct.Struct("<Q")

Work = Callable[[bytes], bytes]


def send_frame(sock: socket.socket, data: bytes) -> None:
    """Send one message; the socket's timeout holds for the whole of it."""
    sock.sendall(_LENGTH.pack(len(data)))
    sock.sendall(data)


def receive_frame(sock: socket.socket) -> bytes | None:
    """Receive one message; None when the other side has ended."""
    head = _receive(sock, _LENGTH.size)
    return None if head is None else _receive(sock, _LENGTH.unpack(head)[0])


def _receive(sock: socket.socket, size: int) -> bytes | None:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return bytes(data)


def serve_parent(start: Callable[[bytes], Work]) -> int:
    """Work until the parent is gone; returns the exit status.

    Args:
        start: called once with the parent's first message; returns what turns a request into its answer. What that
            raises ends the process.
    """
    # Signals of a terminal or a service manager reach the whole process group; the parent decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not die_with_parent(int(sys.argv[1])):
        return 1
    with socket.socket(fileno=sys.stdin.fileno()) as sock:
        setup = receive_frame(sock)
        if setup is None:
            return 1
        work = start(setup)
        _limit_memory()
        send_frame(sock, b"")
        while (request := receive_frame(sock)) is not None:
            send_frame(sock, work(request))
    return 0


def _limit_memory() -> None:
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + WORK_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
