"""Exit of the server process within a time limit, even when a thread is still running or the event loop is stuck."""

import faulthandler
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from fastserve.log import get_logger

# For threads that are about to end.
LAST_THREADS_S = 0.2

logger = get_logger(__name__)


class UnawaitedThreads(ThreadPoolExecutor):
    """An executor for a loop's blocking calls; closing the loop does not wait for those that still run."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work, whatever `wait` says."""
        super().shutdown(wait=False, cancel_futures=True)


def end_within(limit_s: float) -> None:
    """Have the process end with status 1, and its threads' tracebacks on standard error, unless it ends before.

    The clock is watched without the GIL. A later call takes the place of an earlier one.
    """
    faulthandler.dump_traceback_later(limit_s, exit=True)


def leave(exit_code: int) -> NoReturn:
    """End the process at once, without waiting for running threads or for the interpreter's clean-up.

    Whatever has to be closed is closed by now; the taking apart alone may last seconds on a busy machine.
    """
    threads = [
        thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]
    end_s = time.monotonic() + LAST_THREADS_S
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    if busy := [thread.name for thread in threads if thread.is_alive()]:
        logger.warning("%d threads are still at work and are left behind: %s", len(busy), ", ".join(busy))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
