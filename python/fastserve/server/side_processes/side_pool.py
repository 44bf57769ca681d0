"""Side processes: children that work for the server one piece at a time, and are killed when one takes too long."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from fastserve.child import child_environment
from fastserve.errors import OverloadedError, RequestFailedError
from fastserve.server.side_processes.side_child import receive_frame, send_frame

# Of a new child, until it says that it is ready: an import on a busy machine.
START_LIMIT_S = 60.0


class SidePool:
    """Up to `size` children of one kind, each started when first needed.

    Every child belongs to a thread that feeds it and waits for it without the GIL, so the event loop is never held up;
    the kernel kills the child with its thread.
    """

    def __init__(self, module: str, size: int, *, what: str, setup: bytes = b"") -> None:
        """Start nothing yet.

        Args:
            module: run as the child; it calls `serve_parent`.
            size: most children at a time.
            what: the work, in words of an error message.
            setup: first message to each child.
        """
        self._module = module
        self._what = what
        self._setup = setup
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=f"fastserve-{module.rpartition('.')[2]}")
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        self._closed = False

    async def ask(self, request: bytes, limit_s: float) -> bytes:
        """Return a child's answer.

        Raises:
            TimeoutError: the work took longer than `limit_s`; its child was killed.
            OverloadedError: earlier work held all children for longer than `limit_s`.
            RequestFailedError: the child could not start, or ended in the middle of the work.
        """
        job = self._threads.submit(self._work, request, limit_s)
        answer = asyncio.wrap_future(job)
        try:
            done, _ = await asyncio.wait([answer], timeout=limit_s)
        except asyncio.CancelledError:
            answer.cancel()  # not started: it never will be; else its thread ends it in time
            raise
        if not done and job.cancel():
            raise OverloadedError(f"{self._what} waited longer than {limit_s:g} s for a process; try again")
        try:
            return await answer
        except asyncio.CancelledError:
            if job.cancelled():
                raise RequestFailedError(f"{self._what} was given up: the server is closing") from None
            raise

    def pids(self) -> list[int]:
        """Process ids of the children."""
        with self._lock:
            return [child.pid for child in self._children]

    def close(self) -> None:
        """Kill the children; work under way fails."""
        with self._lock:
            self._closed = True
            children = list(self._children)
        for child in children:
            child.kill()
        self._threads.shutdown(cancel_futures=True)
        for child in children:
            self._forget(child)

    def _work(self, request: bytes, limit_s: float) -> bytes:
        """Have this thread's child do the work; a child that fails at it is replaced when next needed."""
        child = getattr(self._mine, "child", None)
        if child is not None and child.has_ended:
            self._forget(child)
            child = None
        child = child or self._start()
        with self._lost_unless_done(child):
            answer = child.ask(request, limit_s)
            if answer is None:
                raise RequestFailedError(f"the process for {self._what} has ended; try again")
            return answer

    def _start(self) -> "_Child":
        with self._lock:
            if self._closed:
                raise RequestFailedError(f"{self._what} was given up: the server is closing")
            child = _Child(self._module)
            self._children.add(child)
        with self._lost_unless_done(child):
            # Up to here the child must only import and read its set-up; it answers when it is ready.
            if child.ask(self._setup, START_LIMIT_S) is None:
                raise RequestFailedError(f"the process for {self._what} did not start; see the log")
        self._mine.child = child
        return child

    @contextlib.contextmanager
    def _lost_unless_done(self, child: "_Child") -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._mine.child = None
            self._forget(child)
            raise

    def _forget(self, child: "_Child") -> None:
        child.kill()
        child.reap()
        with self._lock:
            self._children.discard(child)


class _Child:
    """One child process and the socket to it."""

    def __init__(self, module: str) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:  # it is the child's standard input; nothing else is inherited but its output
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(os.getpid())], stdin=theirs.fileno(), env=child_environment()
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ask(self, request: bytes, limit_s: float) -> bytes | None:
        """Return the answer, None when the child has ended; raises TimeoutError."""
        end_s = time.monotonic() + limit_s
        self._socket.settimeout(limit_s)
        try:
            send_frame(self._socket, request)
            self._socket.settimeout(max(0.001, end_s - time.monotonic()))
            return receive_frame(self._socket)
        except (BrokenPipeError, ConnectionResetError):
            return None

    def kill(self) -> None:
        """Kill the process at once."""
        self._process.kill()

    def reap(self) -> None:
        """Collect the killed process; may be called again."""
        self._process.wait()
        self._socket.close()
