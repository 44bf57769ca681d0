"""Several delta streams as one, holding at most one unread delta per choice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from fastserve.types import CompletionDelta


@dataclass(frozen=True, slots=True)
class Notice:
    """The scheduler has moved a choice: parked, resumed. `facts` is what it says of it now."""

    facts: dict[str, object]


IndexedItem = tuple[int, CompletionDelta | Notice]


def merge_deltas(first: CompletionDelta, second: CompletionDelta) -> CompletionDelta:
    """The two as one delta; the second is the later."""
    return CompletionDelta(
        index=first.index,
        text=first.text + second.text,
        token_ids=first.token_ids + second.token_ids,
        logprobs=first.logprobs + second.logprobs,
        finish_reason=second.finish_reason,
        stop_reason=second.stop_reason,
        num_cached_tokens=max(first.num_cached_tokens, second.num_cached_tokens),
        stats=second.stats,
        error=second.error,
    )


async def interleave(
    streams: Sequence[AsyncIterator[CompletionDelta]], num_choices: int, outbox: "Outbox | None" = None
) -> AsyncIterator[IndexedItem]:
    """Yield (choice, delta) of all streams as they come; choice = stream * num_choices + delta.index.

    Deltas that are not taken yet are merged per choice, so a slow consumer costs no memory. Closing the iterator, or
    an error in one stream, closes all streams. What others put into `outbox` meanwhile is yielded as well.
    """
    if len(streams) == 1 and outbox is None:
        async with aclosing(streams[0]) as stream:
            async for delta in stream:
                yield delta.index, delta
        return
    outbox = outbox or Outbox()
    outbox.open_streams = len(streams)
    tasks = [asyncio.create_task(_pump(stream, i * num_choices, outbox)) for i, stream in enumerate(streams)]
    try:
        while (batch := await outbox.take()) is not None:
            for item in batch:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(stream: AsyncIterator[CompletionDelta], base: int, outbox: "Outbox") -> None:
    failure = None
    try:
        async with aclosing(stream):
            async for delta in stream:
                outbox.put(base + delta.index, delta)
    except Exception as error:  # handed to the consumer, which raises it
        failure = error
    outbox.end_one(failure)


class Outbox:
    """Unread deltas and notices of all choices: at most one of each per choice."""

    def __init__(self) -> None:
        self.open_streams = 0
        self._deltas: dict[int, CompletionDelta] = {}
        self._notices: dict[int, Notice] = {}
        self._failure: Exception | None = None
        self._changed = asyncio.Event()

    def put(self, choice: int, delta: CompletionDelta) -> None:
        """Add a delta to the choice's unread one."""
        unread = self._deltas.get(choice)
        self._deltas[choice] = delta if unread is None else merge_deltas(unread, delta)
        self._changed.set()

    def note(self, choice: int, facts: dict[str, object]) -> None:
        """Put a notice in the place of the choice's unread one."""
        self._notices[choice] = Notice(facts)
        self._changed.set()

    def end_one(self, failure: Exception | None) -> None:
        """A stream has ended."""
        self.open_streams -= 1
        self._failure = self._failure or failure
        self._changed.set()

    async def take(self) -> list[IndexedItem] | None:
        """All that is unread, or wait for it; None at the end. Raises the first failure of a stream."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._deltas or self._notices:
                batch: list[IndexedItem] = [*self._notices.items(), *self._deltas.items()]
                self._deltas.clear()
                self._notices.clear()
                return batch
            if self.open_streams == 0:
                return None
            self._changed.clear()
            await self._changed.wait()
