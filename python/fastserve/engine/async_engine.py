"""The engine as an asyncio server sees it: a process at the other end of a socket, requests as async iterators."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Self

from fastserve.config import EngineConfig
from fastserve.engine.admission import check_prompt
from fastserve.engine.client import CLOSE_GRACE_S, EngineClient, EngineListener, Facts, ProgressCallback
from fastserve.engine.output_processor import OutputProcessor
from fastserve.engine.prepare import Prepared, named_as_asked, prepare_async
from fastserve.engine.process import DEFAULT_CORE_FACTORY
from fastserve.engine.protocol import Abort, Stop
from fastserve.errors import EngineDeadError, OverloadedError
from fastserve.tokenizer import Tokenizer
from fastserve.types import (
    CompletionDelta,
    EngineInfo,
    EngineOutput,
    EngineStats,
    RequestEvent,
    SamplingDefaults,
    SamplingParams,
    SchedulingParams,
)


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
                on_event=self._requests.note,
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
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        scheduling: SchedulingParams | None = None,
        *,
        request_id: str,
        watch: bool = False,
    ) -> AsyncGenerator[CompletionDelta | RequestEvent, None]:
        """Run the prompts of one call; their completions come interleaved, each ends with a delta with a finish_reason.

        Nothing is sent before the first delta is asked for. Closing the iterator, or cancelling the task that waits in
        it, ends the request in the engine. Deltas that were not taken in time are merged into one per completion.

        Args:
            prompts: token ids of each, 1..max_model_len - 1 of them; there are n completions of each.
            sampling: how to choose tokens and when to stop.
            scheduling: when to run, and with whom to share; its deadline counts from the first delta asked for.
            request_id: unique among live requests.
            watch: yield an event as well when a completion is parked, resumed or moved; the newest of each completion.
        Raises:
            InvalidArgumentError: empty or too long prompt, ids outside the vocabulary (at once); bad request (later).
            OverloadedError: the engine drains (at once), or its queue is full.
            EngineDeadError: the engine has ended, or ends while the request runs.
            RequestFailedError: the engine could not take the request.
        """
        self._check_open()
        checked = [check_prompt(prompt, self.info) for prompt in prompts]
        return self._generate(request_id, checked, sampling, scheduling, watch=watch)

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

        Of several completions: `{"completions": [facts, ...]}` of the unfinished ones. The i-th of several prompts is
        `{request_id}-{i}`.
        """
        sequences, open_ids = self._requests.named_sequences(request_id)
        answers = await asyncio.gather(*map(self._client.explain, open_ids))
        found = [facts for facts in answers if facts is not None]
        if not found:
            return None
        return {"completions": found} if len(sequences) > 1 else found[0]

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
        self,
        request_id: str,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        scheduling: SchedulingParams | None,
        *,
        watch: bool,
    ) -> AsyncGenerator[CompletionDelta | RequestEvent, None]:
        self._check_open()
        waker = _Waker()
        request = self._requests.add(request_id, prompts, sampling, scheduling, watch=watch, wake=waker.wake)
        self._count_generating(1)
        try:
            for sequence in request.sequences:
                self._client.send(sequence)
            while True:
                updates: list[CompletionDelta | RequestEvent] = [*request.take()]
                if watch:
                    updates = [*request.take_events(), *updates]
                if updates:
                    for update in updates:
                        yield update
                elif request.failure is not None:
                    raise type(request.failure)(str(request.failure))
                elif request.finished:
                    return
                else:
                    await waker.wait()
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
        for request in processed.updated:
            request.wake_up()


class _Waker:
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
