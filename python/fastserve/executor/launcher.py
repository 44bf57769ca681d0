"""Starts the nursery and has it fork ranks."""

import contextlib
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence

from fastserve.child import child_environment
from fastserve.errors import DeviceLostError
from fastserve.executor.messages import KillRanks, RankEnded, RankForked, RankStart, decode_from_nursery, encode

MOST_MESSAGE_BYTES = 1 << 16
STOP_GRACE_S = 5.0
# The core brings its own compute threads; those of torch and numpy would compete with them for the same cores.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Launcher:
    """A nursery, whose ranks end with it, and it with this process. For one group of ranks at a time."""

    def __init__(self) -> None:
        """Start the process; it loads what ranks need meanwhile."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fastserve.executor.nursery", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=child_environment() | _ONE_THREAD,
            )
        self._ended: deque[RankEnded] = deque()  # that came while something else was expected

    @property
    def pid(self) -> int:
        """Process id of the nursery."""
        return self._process.pid

    def fileno(self) -> int:
        """Of the socket that is readable when `take_ended` has something to tell."""
        return self._control.fileno()

    def fork(self, start: RankStart, descriptors: Sequence[int], *, timeout_s: float) -> int:
        """Start a rank with copies of descriptors; return its process id.

        Raises:
            DeviceLostError: the nursery has ended, or does not answer.
        """
        try:
            socket.send_fds(self._control, [encode(start)], descriptors)
        except OSError as error:
            raise DeviceLostError(f"the process that starts ranks has ended: {error}") from error
        while True:
            match self._receive(timeout_s):
                case RankForked() as forked:
                    return forked.pid
                case RankEnded() as ended:
                    self._ended.append(ended)
                case None:
                    self.kill_nursery()  # a late answer would be taken for that of the next rank
                    raise DeviceLostError(
                        f"the process that starts ranks (pid {self.pid}) did not answer within {timeout_s:g} s"
                    )

    def take_ended(self) -> list[RankEnded]:
        """Ranks that have ended since the last call; never waits.

        Raises:
            DeviceLostError: the nursery has ended, and its ranks with it.
        """
        while (message := self._receive(0.0)) is not None:
            if isinstance(message, RankEnded):
                self._ended.append(message)
        ended = list(self._ended)
        self._ended.clear()
        return ended

    def kill(self, pids: Sequence[int]) -> None:
        """End ranks at once; those that have ended are ignored."""
        with contextlib.suppress(OSError):
            self._control.send(encode(KillRanks(tuple(pids))))

    def kill_nursery(self) -> None:
        """End the nursery at once, and its ranks with it."""
        self._process.kill()

    def stop(self) -> None:
        """End the nursery and every rank; may be called again."""
        self._control.close()
        try:
            self._process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _receive(self, timeout_s: float) -> RankForked | RankEnded | None:
        self._control.settimeout(timeout_s)
        try:
            raw = self._control.recv(MOST_MESSAGE_BYTES)
        except (TimeoutError, BlockingIOError):
            return None
        except OSError as error:
            raise DeviceLostError(f"the process that starts ranks cannot be heard: {error}") from error
        if not raw:
            raise DeviceLostError(f"the process that starts ranks (pid {self.pid}) has ended")
        return decode_from_nursery(raw)
