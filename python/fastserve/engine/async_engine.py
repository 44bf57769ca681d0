"""The engine as an asyncio server sees it: a process behind a socket, requests as async iterators."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from fastserve.config import EngineConfig
from fastserve.engine.admission import check_prompt
from fastserve.engine.client import CLOSE_GRACE_S, EngineClient, EngineListener, Facts, ProgressCallback
from fastserve.engine.output_processor import OutputProcessor
from fastserve.engine.prepare import Prepared, named_as_asked, prepare_async
from fastserve.engine.process import DEFAULT_CORE_FACTORY
from fastserve.engine.protocol import Abort, Add, Stop
from fastserve.errors import EngineDeadError, OverloadedError
from fastserve.tokenizer import Tokenizer
from fastserve.types import (
    CompletionDelta,
    EngineInfo,
    EngineOutput,
    EngineRequest,
    EngineStats,
    SamplingDefaults,
    SamplingParams,
)


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """A change of a request's place in the scheduler: parked, resumed, moved.

    Attributes:
        index: which of the n completions.
        facts: as from `AsyncEngine.explain`.
    """

    index: int
    facts: Facts


class AsyncEngine:
    """One engine process. Everything is called from the event loop that started it.

    Attributes:
        info: what the engine found out at start.
        tokenizer: of the model; its methods may be called from any thread.
        sampling_defaults: for requests that leave sampling fields out.
    """

    info: EngineInfo
    tokenizer: Tokenizer
    sampling_defaults: SamplingDefaults

    def __init__(self, client: EngineClient, info: EngineInfo, prepared: Prepared) -> None:
        """Use `start`."""
        self.info = info
        self.tokenizer = tokenizer = prepared.tokenizer
        self.sampling_defaults = prepared.defaults
        self._client = client
        self._requests = OutputProcessor(tokenizer)
        self._draining = False
        self._num_generating = 0
        self._idle = asyncio.Event()
        self._idle.set()
        client.listen(
            EngineListener(
                on_outputs=self._on_outputs,
                on_event=self._requests.notify,
                on_refused=self._requests.fail_sequence,
                on_death=self._requests.fail_all,
            )
        )

    @classmethod
    async def start(
        cls, config: EngineConfig, *, core_factory: str | None = None, progress: ProgressCallback | None = None
    ) -> Self:
        """Find or download the model, load the tokenizer, start the engine process; return when the model is ready.

        The process dies with the calling thread (Linux), so call this in a thread that lives as long as the engine.

        Args:
            config: of the engine.
            core_factory: "module:function" called in the process as function(config, progress=...) to make the core.
            progress: called as progress(stage, done, total) while the engine loads.
        Raises:
            InvalidArgumentError, CheckpointError, DeviceError: as the engine reported.
            EngineDeadError: the process ended without a word.
        """
        prepared = await prepare_async(config)
        client = EngineClient(progress)
        try:
            info = await client.start(prepared.config, core_factory or DEFAULT_CORE_FACTORY)
        except BaseException:
            await client.close(grace_s=0.0)
            raise
        return cls(client, named_as_asked(info, config), prepared)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs and has not failed; see `heartbeat_age_s` for hangs."""
        return self._client.is_alive

    @property
    def death(self) -> str | None:
        """Why the engine has ended; None while nothing is known of an end."""
        return self._client.death

    @property
    def pid(self) -> int | None:
        """Process id of the engine."""
        return self._client.pid

    def heartbeat_age_s(self) -> float:
        """Return seconds since the engine loop was last heard of; it speaks at least every HEARTBEAT_INTERVAL_S.

        Longer means that one iteration takes that long, or that the engine hangs.
        """
        return self._client.heartbeat_age_s()

    def generate(
        self,
        prompt_token_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str = "",
        length_class: str = "",
        deadline_s: float | None = None,
        max_pause_s: float | None = None,
        on_event: Callable[[RequestEvent], None] | None = None,
    ) -> AsyncIterator[CompletionDelta]:
        """Run a request; its n completions come interleaved, each ends with a delta that has a finish_reason.

        Nothing is sent before the first delta is asked for. Closing the iterator, or cancelling the task that waits in
        it, ends the request in the engine. Deltas that were not taken in time are merged into one per completion.

        Args:
            prompt_token_ids: see `EngineRequest`, as are priority, cache_salt, length_class, deadline_s and
                max_pause_s.
            sampling: how to choose tokens and when to stop.
            request_id: unique among live requests.
            on_event: called in the loop when a completion is parked, resumed or moved.
        Raises:
            InvalidArgumentError: empty or too long prompt, ids outside the vocabulary (at once); bad request (later).
            OverloadedError: the engine drains (at once), or its queue is full.
            EngineDeadError: the engine has ended, or ends while the request runs.
            RequestFailedError: the engine could not take the request.
        """
        self._check_open()
        template = EngineRequest(
            request_id=0,
            prompt_token_ids=check_prompt(prompt_token_ids, self.info),
            sampling=sampling,
            priority=priority,
            cache_salt=cache_salt,
            length_class=length_class,
            deadline_s=deadline_s,
            max_pause_s=max_pause_s,
        )
        return self._generate(request_id, template, on_event)

    async def abort(self, request_id: str) -> bool:
        """End a request; its iterator still gets its last deltas. Return whether it was running."""
        request = self._requests.get(request_id)
        if request is None or request.finished:
            return False
        self._send_aborts(self._requests.open_sequences(request))
        return True

    async def stats(self) -> EngineStats:
        """Return state and counters of the engine, as of its next turn; raises EngineDeadError."""
        return await self._client.stats()

    async def explain(self, request_id: str) -> Facts | None:
        """Return what the scheduler says of a request; None when it is not in the engine.

        Of a request with n > 1: `{"completions": [facts, ...]}` of the unfinished ones.
        """
        request = self._requests.get(request_id)
        if request is None:
            return None
        answers = [await self._client.explain(sequence_id) for sequence_id in self._requests.open_sequences(request)]
        found = [facts for facts in answers if facts is not None]
        if request.sampling.n > 1:
            return {"completions": found} if found else None
        return found[0] if found else None

    async def drain(self) -> None:
        """Refuse new requests with OverloadedError and wait for those under way."""
        self._draining = True
        await self._idle.wait()

    async def close(self, *, grace_s: float = CLOSE_GRACE_S) -> None:
        """Fail what is under way and end the process, by force after `grace_s`; may be called again."""
        await self._client.close(grace_s=grace_s)

    def _check_open(self) -> None:
        self._client.check_alive()
        if self._draining:
            raise OverloadedError("the engine is draining and takes no new requests: try again later, or elsewhere")

    async def _generate(
        self, request_id: str, template: EngineRequest, on_event: Callable[[RequestEvent], None] | None
    ) -> AsyncIterator[CompletionDelta]:
        self._check_open()
        news = _News()
        request = self._requests.add(request_id, template, wake=news.wake)
        if on_event is not None:
            request.on_event = lambda index, facts: on_event(RequestEvent(index, facts))
        self._count_generating(1)
        try:
            for sequence in request.sequences:
                self._client.send(Add.of(sequence, watch=on_event is not None))
            while True:
                if deltas := request.take():
                    for delta in deltas:
                        yield delta
                elif request.failure is not None:
                    raise type(request.failure)(str(request.failure))
                elif request.finished:
                    return
                else:
                    await news.wait()
        finally:
            self._send_aborts(self._requests.remove(request))
            self._count_generating(-1)

    def _count_generating(self, change: int) -> None:
        self._num_generating += change
        if self._num_generating:
            self._idle.clear()
        else:
            self._idle.set()

    def _send_aborts(self, sequence_ids: Sequence[int]) -> None:
        self._send_ends(Abort(sequence_id) for sequence_id in sequence_ids)

    def _send_ends(self, messages: Iterable[Abort | Stop]) -> None:
        with contextlib.suppress(EngineDeadError):  # then there is nothing left to end
            for message in messages:
                self._client.send(message)

    def _on_outputs(self, outputs: list[EngineOutput]) -> None:
        processed = self._requests.process(outputs)
        self._send_ends(Stop(sequence_id, num_tokens) for sequence_id, num_tokens in processed.to_stop)
        self._send_aborts(processed.to_abort)
        for request in processed.news:
            request.wake_up()


class _News:
    """Wakes the one task that waits; a wake-up while none waits is not kept, so look before waiting."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
