"""Log a warning when the process runs out of file descriptors, which otherwise shows as vanishing connections."""

import asyncio
import errno
import resource
import time
from collections.abc import Mapping

from fastserve.log import get_logger

# A connection with one of the last descriptors means that all are in use. A few may be taken and given back by others.
SPARE = 4
PERIOD_S = 10.0

logger = get_logger(__name__)


class DescriptorWatch:
    """Warns at most once in `PERIOD_S`.

    uvloop gives no sign of a connection that it could not accept: it closes it. But the kernel hands out the lowest free
    descriptor, so the number of the last accepted connection tells how many are left.
    """

    def __init__(self) -> None:
        self._quiet_until_s = 0.0

    def note(self, fileno: int) -> None:
        """Look at the descriptor of a new connection."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY and fileno >= limit - SPARE:
            self._warn()

    def on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        """The loop's exception handler: asyncio's own loop reports every connection that it could not accept."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self._warn()
        else:
            loop.default_exception_handler(dict(context))

    def _warn(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._quiet_until_s:
            self._quiet_until_s = now_s + PERIOD_S
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            logger.warning(
                "all %d file descriptors are in use: new connections are dropped until others end; raise ulimit -n",
                limit,
            )
