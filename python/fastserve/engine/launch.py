"""Start an engine process from the frontend, notice its end, end it."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable

from fastserve.child import child_environment
from fastserve.engine.protocol import EngineStart, encode

# The core brings its own compute threads; those of torch and numpy would compete with them for the same cores.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class EngineProcess:
    """A running `fastserve.engine.process`. Belongs to the loop and the thread that created it.

    The engine dies with the creating thread (Linux: parent-death signal), so create it where the program lives.
    """

    def __init__(self, start: EngineStart, on_exit: Callable[[int], None]) -> None:
        """Start the process; `on_exit(status)` is called in the running loop when it has ended."""
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self._ended = asyncio.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fastserve.engine.process"],
            stdin=subprocess.PIPE,
            env=_ONE_THREAD | child_environment(),
        )
        stdin = self._process.stdin
        assert stdin is not None, "it is a pipe"
        with contextlib.suppress(BrokenPipeError), stdin:
            stdin.write(encode(start))
        threading.Thread(target=self._wait, name="fastserve-engine-watch", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is not known to have ended."""
        return not self._ended.is_set()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    async def stop(self, grace_s: float) -> None:
        """Wait for the process to end by itself, kill it after `grace_s` or when cancelled."""
        try:
            await asyncio.wait_for(self._ended.wait(), grace_s)
        except TimeoutError:
            self.kill()
            await self._ended.wait()
        except asyncio.CancelledError:
            self.kill()
            raise

    def _wait(self) -> None:
        status = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: no listener is left
            self._loop.call_soon_threadsafe(self._exited, status)

    def _exited(self, status: int) -> None:
        self._ended.set()
        self._on_exit(status)
