"""The generations whose client is waiting: counted, named, and interruptible from outside."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fastserve.server.errors import bad_request


class Ticket:
    """One generation in flight, run by the task that opened it."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.reason: Exception | None = None

    def interrupt(self, reason: Exception) -> None:
        """Stop the generation's task; it fails with `reason`. The first reason stands."""
        if self._task is not None and self.reason is None:
            self.reason = reason
            self._task.cancel()

    def close(self) -> None:
        """From now on there is nothing to interrupt."""
        self._task = None


class InFlight:
    """All open tickets, by request id."""

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._tickets)

    @contextmanager
    def enter(self, request_id: str) -> Iterator[Ticket]:
        """Hold a ticket while the body runs; an interruption comes out of the body as the ticket's reason.

        Raises:
            ApiError: 400, a request with this id is in flight.
        """
        if request_id in self._tickets:
            raise bad_request(f"request_id {request_id!r} is in use; choose another", "request_id", "invalid_value")
        ticket = self._tickets[request_id] = Ticket()
        self._empty.clear()
        try:
            yield ticket
        except asyncio.CancelledError:
            if ticket.reason is None:
                raise
            asyncio.current_task().uncancel()
            raise ticket.reason from None
        finally:
            ticket.close()
            del self._tickets[request_id]
            if not self._tickets:
                self._empty.set()

    def interrupt_all(self, reason: Exception) -> None:
        """Interrupt every generation."""
        for ticket in list(self._tickets.values()):
            ticket.interrupt(reason)

    async def wait_empty(self) -> None:
        """Return once nothing is in flight."""
        await self._empty.wait()
