"""The asyncio API of the engine: a process at the other end of a socket, requests as async iterators."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Self

from fastserve.config import EngineConfig
from fastserve.engine.admission import bad_word_ids, check_prompt, check_sampling
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
    """One engine process. Call its methods from the event loop that started it.

    Attributes:
        info: what the engine found out at start.
        tokenizer: of the model; its methods may be called from any thread.
        sampling_defaults: for requests that leave sampling fields out.
    """

    info: EngineInfo
    tokenizer: Tokenizer
    sampling_defaults: SamplingDefaults

    def __init__(self, client: EngineClient, info: EngineInfo, prepared: Prepared) -> None:
        """Wrap a started engine process; call `start` instead."""
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

        On Linux the process dies with the calling thread, so call this in a thread that lives as long as the engine.

        Args:
            config: configuration of the engine.
            core_factory: "module:function" called in the process as function(config, progress=...) to make the core.
            progress: called as progress(stage, done, total) while the engine loads.
        Raises:
            InvalidArgumentError, CheckpointError, DeviceError: as the engine reported.
            EngineDeadError: the process ended without giving a reason.
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
        """Whether the process is running and has not failed; for hangs see `heartbeat_age_s`."""
        return self._client.is_alive

    @property
    def death(self) -> str | None:
        """Why the engine process ended; None while it is not known to have ended."""
        return self._client.death

    @property
    def pid(self) -> int | None:
        """Process id of the engine."""
        return self._client.pid

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the last message of the engine, which sends one at least every HEARTBEAT_INTERVAL_S.

        A higher age means that one iteration takes that long, or that the engine hangs.
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
        """Run the prompts of one call. Their completions come interleaved; the last delta of each has a finish_reason.

        The request starts when the first delta is asked for. Closing the iterator, or cancelling the task that waits in
        it, aborts the request. Deltas that the caller has not taken yet are merged into one per completion.

        Args:
            prompts: token ids of each prompt, 1..max_model_len - 1 of them; there are n completions of each prompt.
            sampling: how to choose tokens and when to stop.
            scheduling: priority, deadline and sharing; the deadline counts from when the first delta is asked for.
            request_id: unique among live requests.
            watch: also yield an event when a completion is parked, resumed or moved; only the newest of each completion.
        Raises:
            InvalidArgumentError: a prompt is empty or too long or has ids outside the vocabulary (raised by this call), or
                `sampling` names tokens outside of it; the request is invalid (raised by the iterator).
            OverloadedError: the engine is draining (raised by this call), or its queue is full (by the iterator).
            EngineDeadError: the engine has ended, or ends while the request runs.
            RequestFailedError: the engine could not accept the request.
        """
        self._check_open()
        checked = [check_prompt(prompt, self.info) for prompt in prompts]
        check_sampling(sampling, self.info)
        return self._generate(request_id, checked, sampling, scheduling, watch=watch)

    async def abort(self, request_id: str) -> bool:
        """Abort a request and return whether it was running; its iterator still yields the last deltas."""
        request = self._requests.get(request_id)
        if request is None or request.finished:
            return False
        self._send_aborts(self._requests.open_sequences(request))
        return True

    async def stats(self) -> EngineStats:
        """Return state and counters of the engine, as of its next step; raises EngineDeadError."""
        return await self._client.stats()

    async def explain(self, request_id: str) -> Facts | None:
        """Return what the scheduler knows about a request; None when it is not in the engine.

        For several completions this is `{"completions": [facts, ...]}` with one entry per unfinished one. The i-th of
        several prompts is addressed as `{request_id}-{i}`.
        """
        sequences, open_ids = self._requests.named_sequences(request_id)
        answers = await asyncio.gather(*map(self._client.explain, open_ids))
        found = [facts for facts in answers if facts is not None]
        if not found:
            return None
        return {"completions": found} if len(sequences) > 1 else found[0]

    async def drain(self) -> None:
        """Refuse new requests with OverloadedError and wait for the running ones."""
        self._draining = True
        await self._idle.wait()

    async def close(self, *, grace_s: float = CLOSE_GRACE_S) -> None:
        """Fail running requests and end the process, by force after `grace_s` seconds; may be called again."""
        await self._client.close(grace_s=grace_s)

    def _check_open(self) -> None:
        self._client.check_alive()
        if self._draining:
            raise OverloadedError("the engine is draining and accepts no new requests: try again later, or elsewhere")

    async def _generate(
        self,
        request_id: str,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        scheduling: SchedulingParams | None,
        *,
        watch: bool,
    ) -> AsyncGenerator[CompletionDelta | RequestEvent, None]:
        bans: tuple[tuple[int, ...], ...] = ()
        if sampling.bad_words:
            bans = await asyncio.to_thread(bad_word_ids, sampling.bad_words, self.tokenizer, self.info.vocab_size)
        self._check_open()
        waker = _Waker()
        request = self._requests.add(
            request_id, prompts, sampling, scheduling, watch=watch, wake=waker.wake, bad_word_ids=bans
        )
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
    """Wakes the one task that waits; a wake-up without a waiting task is lost, so check before waiting."""

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
