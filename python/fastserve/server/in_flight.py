"""The generations whose client is waiting: counted, named, and interruptible from outside."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fastserve.server.errors import bad_request


class RequestGuard:
    """One generation in flight, run by the task that opened it."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.reason: Exception | None = None

    def interrupt(self, reason: Exception) -> None:
        """Stop the generation's task with `reason`; later reasons are ignored."""
        if self._task is not None and self.reason is None:
            self.reason = reason
            self._task.cancel()

    def close(self) -> None:
        """Mark the generation as finished: it can no longer be interrupted."""
        self._task = None


class InFlight:
    """All open guards, by request id."""

    def __init__(self) -> None:
        self._guards: dict[str, RequestGuard] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._guards)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._guards

    @contextmanager
    def enter(self, request_id: str) -> Iterator[RequestGuard]:
        """Hold a guard while the body runs; an interruption comes out of the body as the guard's reason.

        Raises:
            ApiError: 400, a request with this id is in flight.
        """
        if request_id in self._guards:
            raise bad_request(f"request_id {request_id!r} is in use; choose another", "request_id", "invalid_value")
        guard = self._guards[request_id] = RequestGuard()
        self._empty.clear()
        try:
            yield guard
        except asyncio.CancelledError:
            if guard.reason is None:
                raise
            task = asyncio.current_task()
            assert task is not None, "it was cancelled"
            task.uncancel()
            raise guard.reason from None
        finally:
            guard.close()
            del self._guards[request_id]
            if not self._guards:
                self._empty.set()

    def interrupt_all(self, reason: Exception) -> None:
        """Interrupt every generation."""
        for guard in list(self._guards.values()):
            guard.interrupt(reason)

    async def wait_empty(self) -> None:
        """Return once nothing is in flight."""
        await self._empty.wait()
