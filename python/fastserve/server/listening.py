"""The sockets on which a server listens: TCP, or one of the file system."""

import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator

from fastserve.config import ServerConfig


def open_sockets(config: ServerConfig) -> list[socket.socket]:
    """Bind the sockets of a configuration and listen; connections wait until the event loop accepts them.

    Raises:
        OSError: unknown host, or address in use.
    """
    if config.uds:
        return [bind_path(config.uds)]
    sockets = bind(config.host, config.port)
    try:
        for sock in sockets:
            sock.listen()
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address that `host` names; with port 0 all get the port of the first.

    Raises:
        OSError: unknown host, or address in use.
    """
    sockets: list[socket.socket] = []
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(rows):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
            port = port or sock.getsockname()[1]
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def bind_path(path: str) -> socket.socket:
    """Listen on a socket of the file system, in place of one that a dead server left behind.

    A lock on a file beside it, which stays, keeps two starters from taking the place of one another.

    Raises:
        OSError: the path cannot be bound; a server listens there, or it is no socket.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(path + ".lock"):
            try:
                sock.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not _is_abandoned(path):
                    raise
                os.unlink(path)
                sock.bind(path)
            sock.listen()
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def remove_path(config: ServerConfig) -> None:
    """Remove the socket's file when its server ends."""
    if config.uds:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(config.uds)


def _is_abandoned(path: str) -> bool:
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)  # one whose queue is full is not abandoned
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return True
        except (TimeoutError, BlockingIOError):
            pass
        return False


def is_local(sock: socket.socket) -> bool:
    """Whether this machine alone reaches a socket."""
    if sock.family == socket.AF_UNIX:
        return True
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def address(sock: socket.socket, *, tls: bool) -> str:
    """Where a socket is reached, as text."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port, *_ = sock.getsockname()
    return f"{'https' if tls else 'http'}://" + (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
