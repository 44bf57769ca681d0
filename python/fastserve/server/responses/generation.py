"""One generation request while it runs: its deltas, its counts and its clock."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fastserve.errors import InvalidArgumentError, OverloadedError, RequestFailedError
from fastserve.metrics import RequestTimer
from fastserve.server.errors import ClientGoneError, DeadlineError, DrainingError
from fastserve.server.requests.schema import TokenIds
from fastserve.server.responses.usage import UsageTally
from fastserve.server.server_state import ServerState
from fastserve.types import CompletionDelta, FinishReason, RequestEvent, SamplingParams, SchedulingParams


class Generation:
    """Runs the prompts of one request on the engine; `items` may be iterated once, and `conclude` ends the accounts.

    Attributes:
        request_id: the `id` of the reply, and the engine's name of the request.
        arrival_s: monotonic time of arrival; `created` is the Unix time, whole seconds.
        prompts: checked token ids; sampling and scheduling hold for all of them.
        num_choices: completions of all prompts: sample j of prompt i is number i * n + j.
        usage: counts of what was delivered so far.
        refused: the engine did not take the request, and nothing of it was delivered.
    """

    def __init__(
        self,
        state: ServerState,
        prompts: Sequence[TokenIds],
        sampling: SamplingParams,
        scheduling: SchedulingParams,
        *,
        request_id: str,
        arrival_s: float,
    ) -> None:
        """Take a checked request.

        Raises:
            LoadingError, RestartingError, DrainingError, EngineDeadError: there is no engine to run it.
        """
        self.request_id = request_id
        self.created = int(time.time())
        self.arrival_s = arrival_s
        self.prompts = prompts
        self.sampling = sampling
        self.scheduling = scheduling
        self.num_choices = len(prompts) * sampling.n
        self.usage = UsageTally(sum(map(len, prompts)), sampling.n)
        self.refused = False
        self._engine = state.ready_engine()
        self._metrics = state.metrics
        self._recorder = state.recorder
        self._output_ids: list[list[int]] = [[] for _ in range(self.num_choices if self._recorder is not None else 0)]
        self._timers = [RequestTimer(self._metrics, arrival_s) for _ in range(self.num_choices)]
        self._unprocessed = set(range(len(prompts)))  # prompts that have not led to a token
        self._unfinished = set(range(self.num_choices))
        self._concluded = False

    async def items(self, *, watch: bool = False) -> AsyncGenerator[CompletionDelta | RequestEvent, None]:
        """Yield deltas until every choice has ended, with `watch` events of the scheduler too; closing aborts what runs.

        Raises:
            InvalidArgumentError, OverloadedError, EngineDeadError: the engine refused or died.
            DeadlineError: the request's deadline passed.
            RequestFailedError: a choice failed.
        """
        scheduling = self.scheduling.after(time.monotonic() - self.arrival_s)
        try:
            outputs = self._engine.generate(
                self.prompts, self.sampling, scheduling, request_id=self.request_id, watch=watch
            )
            async with aclosing(outputs):
                async for item in outputs:
                    if isinstance(item, CompletionDelta):
                        self._account(item)
                    yield item
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
        longest_reply = max(timer.num_tokens for timer in self._timers)
        self._metrics.observe_request(self.sampling, self.usage.prompt_tokens, longest_reply)
        self._record()

    def prompt_of(self, choice: int) -> TokenIds:
        """The prompt that a choice continues."""
        return self.prompts[choice // self.sampling.n]

    def missed_deadline(self) -> DeadlineError:
        """The error of a request whose deadline has passed."""
        return DeadlineError(f"the request did not finish within its deadline_s of {self.scheduling.deadline_s:g} s")

    def _account(self, delta: CompletionDelta) -> None:
        now_s, choice = time.monotonic(), delta.index
        self.usage.add(delta)
        if delta.token_ids:
            self._count_prompt(choice // self.sampling.n)
            self._timers[choice].on_tokens(len(delta.token_ids), now_s)
            if self._recorder is not None:
                self._output_ids[choice] += delta.token_ids
        if delta.finish_reason in (FinishReason.STOP, FinishReason.LENGTH):  # where no output was wanted
            self._count_prompt(choice // self.sampling.n)
        if delta.finish_reason is not None:
            self._unfinished.remove(choice)
            self._timers[choice].on_finish(delta.finish_reason, delta.stats, now_s)
            if delta.finish_reason is FinishReason.DEADLINE:
                raise self.missed_deadline()
            if delta.finish_reason is FinishReason.ERROR:
                raise RequestFailedError(delta.error or "the request failed in the engine")

    def _count_prompt(self, index: int) -> None:
        """Count a prompt, and what of it was cached, with the first token that follows it."""
        if index in self._unprocessed:
            self._unprocessed.remove(index)
            self._metrics.prompt_tokens.inc(len(self.prompts[index]))
            self._metrics.cached_tokens.inc(self.usage.cached_tokens_of(index))

    def _record(self) -> None:
        """Leave the request in the trace, when it has ended or its client has left."""
        if self._recorder is not None:
            for choice, output_ids in enumerate(self._output_ids):
                prompt_ids = self.prompt_of(choice)
                self._recorder.record(self.arrival_s, prompt_ids, output_ids, priority=self.scheduling.priority)


def _reason_of(failure: Exception | None) -> FinishReason:
    match failure:
        case None | ClientGoneError() | DrainingError():
            return FinishReason.ABORT
        case DeadlineError():
            return FinishReason.DEADLINE
    return FinishReason.ERROR
