"""What every child process of a server needs: the parent's import path, and to end with the parent."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def child_environment() -> dict[str, str]:
    """The environment with which a child imports from where this process does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def die_with_parent(parent_pid: int) -> bool:
    """Have the kernel kill this process when the thread that started it ends; False when the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent_pid
