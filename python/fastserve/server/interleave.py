"""Several delta streams as one, holding at most one unread delta per choice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from fastserve.types import CompletionDelta

IndexedDelta = tuple[int, CompletionDelta]


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
    streams: Sequence[AsyncIterator[CompletionDelta]], num_choices: int
) -> AsyncIterator[IndexedDelta]:
    """Yield (choice, delta) of all streams as they come; choice = stream * num_choices + delta.index.

    Deltas that are not taken yet are merged per choice, so a slow consumer costs no memory. Closing the iterator, or
    an error in one stream, closes all streams.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as stream:
            async for delta in stream:
                yield delta.index, delta
        return
    outbox = _Outbox(len(streams))
    tasks = [asyncio.create_task(_pump(stream, i * num_choices, outbox)) for i, stream in enumerate(streams)]
    try:
        while (batch := await outbox.take()) is not None:
            for item in batch.items():
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(stream: AsyncIterator[CompletionDelta], base: int, outbox: "_Outbox") -> None:
    failure = None
    try:
        async with aclosing(stream):
            async for delta in stream:
                outbox.put(base + delta.index, delta)
    except Exception as error:  # handed to the consumer, which raises it
        failure = error
    outbox.end_one(failure)


class _Outbox:
    """Unread deltas of all choices, merged per choice."""

    def __init__(self, num_streams: int) -> None:
        self._open = num_streams
        self._unread: dict[int, CompletionDelta] = {}
        self._failure: Exception | None = None
        self._changed = asyncio.Event()

    def put(self, choice: int, delta: CompletionDelta) -> None:
        unread = self._unread.get(choice)
        self._unread[choice] = delta if unread is None else merge_deltas(unread, delta)
        self._changed.set()

    def end_one(self, failure: Exception | None) -> None:
        self._open -= 1
        self._failure = self._failure or failure
        self._changed.set()

    async def take(self) -> dict[int, CompletionDelta] | None:
        """All that is unread; None at the end. Raises the first failure of a stream."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._unread:
                batch, self._unread = self._unread, {}
                return batch
            if self._open == 0:
                return None
            self._changed.clear()
            await self._changed.wait()
