"""Open-loop load: every request starts at its arrival time, whatever the server does."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import aiohttp
import msgspec
import numpy as np

from fastserve.bench.client import Reply, Target, complete
from fastserve.bench.result import RequestResult
from fastserve.errors import InvalidArgumentError
from fastserve.workload import Workload

# Token ids below this are in the vocabulary of every model of use.
COMMON_VOCAB_SIZE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How requests are sent.

    Attributes:
        vocab_size: ids of synthetic prompts stay below it.
        ignore_eos: ask for exactly the workload's output lengths (a field that not every server knows).
        temperature: 0 = greedy.
        max_concurrency: most requests under way; None = no limit. A request that must wait for it counts from then on.
        extra_body: more fields of every request.
    """

    vocab_size: int = COMMON_VOCAB_SIZE
    ignore_eos: bool = False
    temperature: float = 0.0
    max_concurrency: int | None = None
    extra_body: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise InvalidArgumentError(f"max_concurrency must be at least 1, got {self.max_concurrency}")
        if self.vocab_size < 1:
            raise InvalidArgumentError(f"vocab_size must be at least 1, got {self.vocab_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRun:
    """A load that has been sent and answered.

    Attributes:
        results: one per request, in the order of the workload.
        duration_s: from the start to the end of the last reply.
    """

    results: tuple[RequestResult, ...]
    duration_s: float


def run_load(
    target: Target,
    workload: Workload,
    options: LoadOptions,
    *,
    on_finish: Callable[[RequestResult], None] | None = None,
) -> LoadRun:
    """Send every request at its arrival time, wait for all; a later turn of a conversation also waits for the former.

    Requests are encoded before the start, so that sending costs little: about 6 bytes of memory per prompt token.
    """
    bodies = [_body(target, workload, options, i) for i in range(len(workload))]
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_Sender(target, workload, options, bodies, on_finish).run())


class _Sender:
    """One run; its state belongs to the event loop."""

    def __init__(
        self,
        target: Target,
        workload: Workload,
        options: LoadOptions,
        bodies: list[bytes],
        on_finish: Callable[[RequestResult], None] | None,
    ) -> None:
        self._target = target
        self._workload = workload
        self._bodies = bodies
        self._on_finish = on_finish
        self._slots = None if options.max_concurrency is None else asyncio.Semaphore(options.max_concurrency)
        self._tasks: list[asyncio.Task[RequestResult]] = []
        self._start_s = 0.0

    async def run(self) -> LoadRun:
        due_s = self._workload.arrival_s.tolist()
        former = self._workload.former_turn().tolist()
        async with self._target.open() as session:
            self._start_s = time.perf_counter()
            for i, due in enumerate(due_s):
                await asyncio.sleep(0)  # even when late: replies must be read in between
                while (wait_s := due - self._now_s()) > 0:  # timers may ring a millisecond early
                    await asyncio.sleep(wait_s)
                held_by = None if former[i] < 0 else self._tasks[former[i]]
                self._tasks.append(asyncio.create_task(self._run_one(session, i, due, held_by)))
            results = await asyncio.gather(*self._tasks)
        return LoadRun(results=tuple(results), duration_s=max((r.finished_s for r in results), default=0.0))

    async def _run_one(
        self, session: aiohttp.ClientSession, i: int, due_s: float, held_by: asyncio.Task[RequestResult] | None
    ) -> RequestResult:
        start_s = due_s
        if held_by is not None and not held_by.done():
            await asyncio.wait([held_by])
            start_s = self._now_s()
        if self._slots is None:
            return await self._send(session, i, due_s, start_s)
        if self._slots.locked():
            await self._slots.acquire()
            start_s = self._now_s()
        else:
            await self._slots.acquire()
        try:
            return await self._send(session, i, due_s, start_s)
        finally:
            self._slots.release()

    async def _send(self, session: aiohttp.ClientSession, i: int, due_s: float, start_s: float) -> RequestResult:
        sent_s = self._now_s()
        reply = await complete(session, self._target, self._bodies[i])
        self._bodies[i] = b""
        result = replace(
            _result(reply, self._start_s, int(self._workload.prompt_tokens[i])),
            index=i,
            due_s=due_s,
            start_s=start_s,
            sent_s=sent_s,
        )
        if self._on_finish is not None:
            self._on_finish(result)
        return result

    def _now_s(self) -> float:
        return time.perf_counter() - self._start_s


def _result(reply: Reply, origin_s: float, prompt_tokens: int) -> RequestResult:
    pieces = len(reply.token_s)
    return RequestResult(
        index=0,
        due_s=0.0,
        start_s=0.0,
        sent_s=0.0,
        finished_s=reply.finished_s - origin_s,
        token_s=np.array(reply.token_s, np.float64) - origin_s,
        prompt_tokens=reply.prompt_tokens or prompt_tokens,
        output_tokens=reply.output_tokens or pieces,
        error=reply.error,
        detail=reply.detail,
        engine=reply.engine,
    )


def _body(target: Target, workload: Workload, options: LoadOptions, i: int) -> bytes:
    # What was recorded is sent as it is: whether it fits the model is for the server to say.
    ids = workload.prompt_ids(i, options.vocab_size) if workload.prompts is None else workload.prompts[i]
    fields: dict[str, object] = {
        "model": target.model,
        "prompt": ids.tolist(),
        "max_tokens": int(workload.output_tokens[i]),
        "temperature": options.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if options.ignore_eos:
        fields["ignore_eos"] = True
    if workload.priority[i]:
        fields["priority"] = int(workload.priority[i])
    return msgspec.json.encode(fields | dict(options.extra_body))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: it halves the cost of a token."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop
