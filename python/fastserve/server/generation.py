"""One generation request while it runs: its plan, its deltas, its counts and its clock."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from fastserve.errors import InvalidArgumentError, OverloadedError, RequestFailedError
from fastserve.metrics import RequestMetrics, RequestTimer
from fastserve.server.engine_face import EngineFace, EventFace
from fastserve.server.errors import ClientGoneError, DeadlineError, DrainingError
from fastserve.server.interleave import IndexedItem, Notice, Outbox, interleave
from fastserve.server.recorder import Recorder
from fastserve.server.schema import TokenIds
from fastserve.server.usage import UsageTally
from fastserve.types import CompletionDelta, FinishReason, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptJob:
    """One prompt of a request and how to continue it."""

    token_ids: TokenIds
    sampling: SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationPlan:
    """A checked request, ready to run.

    Attributes:
        request_id: the `id` of the reply, and the engine's name of the request.
        jobs: one per prompt, all with the same n.
        created: Unix time of arrival, whole seconds.
        arrival_s: monotonic time of arrival.
        deadline_s: seconds after arrival at which the request fails unless finished.
        max_pause_s: longest pause of its streams, where memory allows; None = the engine's.
    """

    request_id: str
    jobs: tuple[PromptJob, ...]
    created: int
    arrival_s: float
    priority: int = 0
    cache_salt: str = ""
    length_class: str = ""
    deadline_s: float | None = None
    max_pause_s: float | None = None
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    include_events: bool = False

    @property
    def choices_per_prompt(self) -> int:
        """The request's n."""
        return self.jobs[0].sampling.n

    @property
    def num_choices(self) -> int:
        """Completions of all prompts."""
        return len(self.jobs) * self.choices_per_prompt


class Generation:
    """Runs a plan on the engine; `items` may be iterated once, and `conclude` ends the accounts.

    Attributes:
        usage: counts of what was delivered so far.
        refused: the engine did not take the request, and nothing of it was delivered.
    """

    def __init__(
        self, engine: EngineFace, plan: GenerationPlan, metrics: RequestMetrics, recorder: Recorder | None = None
    ) -> None:
        self.plan = plan
        self._engine = engine
        self._metrics = metrics
        self._recorder = recorder
        self._output_ids: list[list[int]] = [[] for _ in range(plan.num_choices)] if recorder is not None else []
        self.usage = UsageTally(sum(len(job.token_ids) for job in plan.jobs), plan.choices_per_prompt)
        self._timers = [RequestTimer(metrics, plan.arrival_s) for _ in range(plan.num_choices)]
        self._unprocessed = set(range(len(plan.jobs)))  # prompts that have not led to a token
        self._unfinished = set(range(plan.num_choices))
        self._concluded = False
        self.refused = False
        self._outbox = Outbox() if plan.include_events else None

    async def items(self) -> AsyncIterator[IndexedItem]:
        """Yield (choice, delta) until every choice has ended; closing aborts what still runs.

        With `include_events` notices of the scheduler come in between.

        Raises:
            InvalidArgumentError, OverloadedError, EngineDeadError: the engine refused or died.
            DeadlineError: the request's deadline passed.
            RequestFailedError: a choice failed.
        """
        plan = self.plan
        try:
            streams = [self._start(i, job) for i, job in enumerate(plan.jobs)]
            async with aclosing(interleave(streams, plan.choices_per_prompt, self._outbox)) as merged:
                async for choice, item in merged:
                    if not isinstance(item, Notice):
                        self._account(choice, item)
                    yield choice, item
        except (InvalidArgumentError, OverloadedError):
            self.refused = not self.usage.completion_tokens
            raise
        self.conclude(None)

    def conclude(self, failure: Exception | None) -> None:
        """Count the choices that have not ended as ended by `failure`, and record the request; once, later calls do nothing.

        Args:
            failure: why the request ends before its choices; None = they have all ended, or the server is cut off.
        """
        if self._concluded or self.refused:
            return
        self._concluded = True
        now_s = time.monotonic()
        for choice in sorted(self._unfinished):
            self._timers[choice].on_finish(_reason_of(failure), None, now_s)
        self._metrics.prompt_tokens_histogram.observe(self.usage.prompt_tokens)
        self._record()

    def _start(self, index: int, job: PromptJob) -> AsyncIterator[CompletionDelta]:
        plan = self.plan
        deadline_s = plan.deadline_s
        if deadline_s is not None:  # the engine counts from now, the client from arrival
            deadline_s = max(0.0, deadline_s - (time.monotonic() - plan.arrival_s))
        return self._engine.generate(
            job.token_ids,
            job.sampling,
            request_id=plan.request_id if len(plan.jobs) == 1 else f"{plan.request_id}-{index}",
            priority=plan.priority,
            cache_salt=plan.cache_salt,
            length_class=plan.length_class,
            deadline_s=deadline_s,
            max_pause_s=plan.max_pause_s,
            on_event=None if self._outbox is None else partial(self._note, index * plan.choices_per_prompt),
        )

    def _note(self, base: int, event: EventFace) -> None:
        self._outbox.note(base + event.index, event.facts)

    def _account(self, choice: int, delta: CompletionDelta) -> None:
        now_s = time.monotonic()
        self.usage.add(choice, delta)
        if delta.token_ids:
            self._count_prompt(choice // self.plan.choices_per_prompt)
            self._timers[choice].on_tokens(len(delta.token_ids), now_s)
            if self._recorder is not None:
                self._output_ids[choice] += delta.token_ids
        if delta.finish_reason is not None:
            self._unfinished.remove(choice)
            self._timers[choice].on_finish(delta.finish_reason, delta.stats, now_s)
            if delta.finish_reason is FinishReason.DEADLINE:
                raise self.missed_deadline()
            if delta.finish_reason is FinishReason.ERROR:
                raise RequestFailedError(delta.error or "the request failed in the engine")

    def missed_deadline(self) -> DeadlineError:
        """The error of a request whose deadline has passed."""
        return DeadlineError(f"the request did not finish within its deadline_s of {self.plan.deadline_s:g} s")

    def _count_prompt(self, index: int) -> None:
        """Count a prompt, and what of it was cached, with the first token that follows it."""
        if index in self._unprocessed:
            self._unprocessed.remove(index)
            self._metrics.prompt_tokens.inc(len(self.plan.jobs[index].token_ids))
            self._metrics.cached_tokens.inc(self.usage.cached_tokens_of(index))

    def _record(self) -> None:
        """Leave the request in the trace, when it has ended or its client has left."""
        if self._recorder is not None:
            plan = self.plan
            for choice, output_ids in enumerate(self._output_ids):
                prompt_ids = plan.jobs[choice // plan.choices_per_prompt].token_ids
                self._recorder.record(plan.arrival_s, prompt_ids, output_ids, priority=plan.priority)


def _reason_of(failure: Exception | None) -> FinishReason:
    match failure:
        case None | ClientGoneError() | DrainingError():
            return FinishReason.ABORT
        case DeadlineError():
            return FinishReason.DEADLINE
    return FinishReason.ERROR
