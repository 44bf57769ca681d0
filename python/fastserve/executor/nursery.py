"""The process that ranks are forked from: it has loaded all that they need and has one thread.

Started as `python -m fastserve.executor.nursery FD PARENT`, with its end of a socket pair. It ends with the other end, or
with the process PARENT, of whose end others may have copies; and the kernel ends its ranks with it.
"""

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
import traceback

from fastserve.child import die_with_parent
from fastserve.executor.messages import (
    KillRanks,
    RankEnded,
    RankForked,
    RankStart,
    decode_to_nursery,
    encode,
)
from fastserve.executor.rank import run_rank

MOST_MESSAGE_BYTES = 1 << 20
NUM_DESCRIPTORS = 4  # of a rank: its socket, the ring, the exchanges of its stage and of all ranks


class Nursery:
    """Forks ranks on demand and reports their ends; all on the calling thread."""

    def __init__(self, control: socket.socket, parent: int) -> None:
        """Serve one end of a pair of sockets that keep messages apart.

        Args:
            parent: descriptor that becomes readable when the process at the other end has ended.
        """
        self._control = control
        self._parent = parent
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._selector.register(parent, selectors.EVENT_READ)
        self._pid_of: dict[int, int] = {}  # by the descriptor that becomes readable at its end

    def run(self) -> None:
        """Serve until the other end is closed, or its process has ended."""
        with contextlib.suppress(ConnectionError):
            while self._turn():
                pass

    def _turn(self) -> bool:
        for key, _ in self._selector.select():
            if key.fd == self._parent:
                return False
            if key.fileobj is not self._control:
                self._reap(key.fd)
                continue
            raw, descriptors, _, _ = socket.recv_fds(self._control, MOST_MESSAGE_BYTES, NUM_DESCRIPTORS)
            if not raw:
                return False
            match decode_to_nursery(raw):
                case RankStart() as start:
                    self._fork(start, descriptors)
                case KillRanks() as kill:
                    for pid in set(kill.pids) & set(self._pid_of.values()):  # none of them is reaped yet
                        os.kill(pid, signal.SIGKILL)
        return True

    def _fork(self, start: RankStart, descriptors: list[int]) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                self._control.close()
                self._selector.close()
                for descriptor in (self._parent, *self._pid_of):
                    os.close(descriptor)
                if die_with_parent(parent):
                    status = run_rank(start, *descriptors)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        for descriptor in descriptors:
            os.close(descriptor)
        end = os.pidfd_open(pid)
        self._pid_of[end] = pid
        self._selector.register(end, selectors.EVENT_READ)
        self._control.send(encode(RankForked(pid)))

    def _reap(self, end: int) -> None:
        pid = self._pid_of.pop(end)
        self._selector.unregister(end)
        os.close(end)
        _, status = os.waitpid(pid, 0)
        self._control.send(encode(RankEnded(pid, os.waitstatus_to_exitcode(status))))


def main(descriptor: int, parent_pid: int) -> int:
    """Entry of the process; see the module's docstring."""
    try:
        parent = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        return 1
    if os.getppid() != parent_pid:  # the number may be another process's by now
        return 1
    # Meant for the whole process group; the engine decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.freeze()  # what is here now is shared with every rank
    with socket.socket(fileno=descriptor) as control:
        Nursery(control, parent).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
