"""Engine outputs -> text deltas: the state of live requests in the frontend. Everything here is on one thread."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from fastserve.engine.admission import sequence_sampling
from fastserve.errors import FastServeError, InternalError, InvalidArgumentError, cause_of
from fastserve.log import get_logger
from fastserve.tokenizer import IncrementalDetokenizer, Tokenizer
from fastserve.types import (
    CompletionDelta,
    EngineOutput,
    EngineRequest,
    FinishReason,
    RequestStats,
    SamplingParams,
    TokenLogprobs,
)

logger = get_logger(__name__)

Facts = dict[str, object]


class Completion:
    """One of the n completions: collects what is new until the consumer takes it, so a slow one holds one delta."""

    __slots__ = (
        "_detokenizer",
        "_error",
        "_failure",
        "_finish_reason",
        "_logprobs",
        "_num_cached_tokens",
        "_num_tokens",
        "_stats",
        "_stop_reason",
        "_stop_string",
        "_stop_token_ids",
        "_text",
        "_token_ids",
        "has_news",
        "index",
        "request",
    )

    def __init__(self, request: "LiveRequest", index: int, detokenizer: IncrementalDetokenizer) -> None:
        self.request = request
        self.has_news = False
        self.index = index
        self._detokenizer = detokenizer
        self._stop_token_ids = request.sampling.stop_token_ids
        self._stop_string: str | None = None
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._num_cached_tokens = 0
        self._num_tokens = 0
        self._finish_reason: FinishReason | None = None
        self._stop_reason: int | str | None = None
        self._stats: RequestStats | None = None
        self._error: str | None = None
        self._failure: str | None = None

    def add(self, output: EngineOutput) -> bool:
        """Take an engine output; return whether the completion has just ended while the engine runs on.

        It does so at a stop string, or where its text cannot be made; the latter is its error.
        """
        reason = output.finish_reason
        ended = self._stop_string is not None or self._failure is not None
        if not ended:
            try:
                self._add_text(output)
            except Exception as error:
                logger.exception("the text of request %s could not be made", self.request.request_id)
                self._failure = f"the text could not be made: {cause_of(error)}"
            self.has_news = True
        if reason is not None:
            self._finish(output, reason)
            return False
        return not ended and (self._stop_string is not None or self._failure is not None)

    @property
    def stopped_after(self) -> int | None:
        """Tokens of the answer, where a stop string ended it."""
        return None if self._stop_string is None else self._num_tokens

    def _add_text(self, output: EngineOutput) -> None:
        delta = self._detokenizer.push(
            output.token_ids,
            finished=output.finish_reason is not None,
            stop_token=output.stop_token_id is not None,
        )
        if delta.text:
            self._text.append(delta.text)
        self._token_ids += output.token_ids[: delta.num_tokens]
        self._num_tokens += delta.num_tokens
        self._logprobs += output.logprobs[: delta.num_tokens]
        self._num_cached_tokens = output.num_cached_tokens
        self._stop_string = delta.stop_string

    def take(self) -> CompletionDelta:
        """Return what is new since the last call."""
        delta = CompletionDelta(
            index=self.index,
            text="".join(self._text),
            token_ids=tuple(self._token_ids),
            logprobs=tuple(self._logprobs),
            finish_reason=self._finish_reason,
            stop_reason=self._stop_reason,
            num_cached_tokens=self._num_cached_tokens,
            stats=self._stats,
            error=self._error,
        )
        self._text.clear()
        self._token_ids.clear()
        self._logprobs.clear()
        self.has_news = False
        return delta

    def _finish(self, output: EngineOutput, reason: FinishReason) -> None:
        self.has_news = True
        self._stats = output.stats
        if self._stop_string is not None:
            # Complete at its stop string, however the engine ended the tokens after it.
            self._finish_reason, self._stop_reason = FinishReason.STOP, self._stop_string
            return
        if self._failure is not None:
            self._finish_reason, self._error = FinishReason.ERROR, self._failure
            return
        self._finish_reason = reason
        self._error = output.error
        if output.stop_token_id in self._stop_token_ids:
            self._stop_reason = output.stop_token_id


@dataclass(slots=True, eq=False)
class LiveRequest:
    """A request whose completions are not all delivered.

    Attributes:
        request_id: the user's.
        sampling: the user's.
        sequences: what to send to the engine, one per completion.
        completions: likewise.
        failure: set when the whole request failed; raised after the deltas that came before it.
        num_open: sequences whose last output has not come.
        wake: called when there is news.
        on_event: called as on_event(index of the completion, facts) when the scheduler moved it.
    """

    request_id: str
    sampling: SamplingParams
    sequences: tuple[EngineRequest, ...] = ()
    completions: tuple[Completion, ...] = ()
    failure: FastServeError | None = None
    num_open: int = 0
    wake: Callable[[], None] | None = None
    on_event: Callable[[int, Facts], None] | None = None

    def take(self) -> list[CompletionDelta]:
        """Return the new deltas, at most one per completion."""
        return [completion.take() for completion in self.completions if completion.has_news]

    def wake_up(self) -> None:
        """Tell the consumer that there is news."""
        if self.wake is not None:
            self.wake()

    @property
    def finished(self) -> bool:
        """Whether the engine has sent the last output of every completion."""
        return self.num_open == 0


@dataclass(frozen=True, slots=True)
class Processed:
    """What a batch of outputs led to.

    Attributes:
        news: requests that have new deltas, each once.
        to_stop: sequences that a stop string ended, which the engine must end, with the tokens of their answers.
        to_abort: sequences that an error ended here, likewise.
    """

    news: Iterable[LiveRequest]
    to_stop: Sequence[tuple[int, int]]
    to_abort: Sequence[int]


class OutputProcessor:
    """All live requests of a frontend."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._requests: dict[str, LiveRequest] = {}
        self._sequences: dict[int, Completion] = {}
        self._ids = itertools.count()

    def __len__(self) -> int:
        """Number of live requests."""
        return len(self._requests)

    def add(self, request_id: str, template: EngineRequest, *, wake: Callable[[], None] | None = None) -> LiveRequest:
        """Register a request; its `sequences` are to be sent to the engine.

        Args:
            request_id: the user's.
            template: the checked prompt and the user's parameters; its own request_id is not used.
            wake: called by `LiveRequest.wake_up`.
        Raises:
            InvalidArgumentError: a live request has this id.
        """
        if request_id in self._requests:
            raise InvalidArgumentError(f"request_id must be unique among live requests, got {request_id!r:.100} again")
        sampling = template.sampling
        request = LiveRequest(request_id, sampling, num_open=sampling.n, wake=wake)
        request.sequences = tuple(
            replace(template, request_id=next(self._ids), sampling=sequence_sampling(sampling, index))
            for index in range(sampling.n)
        )
        request.completions = tuple(
            Completion(request, index, self._detokenizer(template)) for index in range(sampling.n)
        )
        self._requests[request_id] = request
        for sequence, completion in zip(request.sequences, request.completions, strict=True):
            self._sequences[sequence.request_id] = completion
        return request

    def get(self, request_id: str) -> LiveRequest | None:
        """Return a live request."""
        return self._requests.get(request_id)

    def open_sequences(self, request: LiveRequest) -> list[int]:
        """Return the sequences of a request whose last output has not come."""
        return [s.request_id for s in request.sequences if s.request_id in self._sequences]

    def process(self, outputs: Iterable[EngineOutput]) -> Processed:
        """Take the outputs of a step; those of requests already removed are ignored."""
        news: dict[int, LiveRequest] = {}
        to_stop: list[tuple[int, int]] = []
        to_abort: list[int] = []
        for output in outputs:
            completion = self._sequences.get(output.request_id)
            if completion is None:
                continue
            request = completion.request
            if completion.add(output):
                if completion.stopped_after is None:
                    to_abort.append(output.request_id)
                else:
                    to_stop.append((output.request_id, completion.stopped_after))
            if output.finish_reason is not None:
                del self._sequences[output.request_id]
                request.num_open -= 1
            news[id(request)] = request
        return Processed(news.values(), to_stop, to_abort)

    def notify(self, sequence_id: int, facts: Facts) -> None:
        """Pass an event of the scheduler on to the request's callback; what that raises is logged."""
        completion = self._sequences.get(sequence_id)
        if completion is None or completion.request.on_event is None:
            return
        try:
            completion.request.on_event(completion.index, facts)
        except Exception:
            logger.exception("on_event of request %s failed", completion.request.request_id)

    def fail_sequence(self, sequence_id: int, failure: FastServeError) -> None:
        """Fail the request of a sequence that the engine did not take."""
        completion = self._sequences.get(sequence_id)
        if completion is not None:
            self._fail(completion.request, failure)

    def fail_all(self, failure: FastServeError) -> None:
        """Fail every live request that has not ended."""
        for request in self._requests.values():
            if not request.finished:
                self._fail(request, failure)

    def remove(self, request: LiveRequest) -> list[int]:
        """Forget a request; return the sequences that the engine must be told to end."""
        self._requests.pop(request.request_id, None)
        open_ids = self.open_sequences(request)
        for sequence_id in open_ids:
            del self._sequences[sequence_id]
        return open_ids

    def check_integrity(self) -> None:
        """Raise InternalError unless sequences and requests agree."""
        for request in self._requests.values():
            num_open = len(self.open_sequences(request))
            if num_open != request.num_open:
                raise InternalError(f"request {request.request_id} counts {request.num_open} open, has {num_open}")
        if sum(request.num_open for request in self._requests.values()) != len(self._sequences):
            raise InternalError("a sequence belongs to no live request")

    @staticmethod
    def _fail(request: LiveRequest, failure: FastServeError) -> None:
        if request.failure is None:
            request.failure = failure
            request.wake_up()

    def _detokenizer(self, template: EngineRequest) -> IncrementalDetokenizer:
        sampling = template.sampling
        return IncrementalDetokenizer(
            self._tokenizer, template.prompt_token_ids, stop=sampling.stop, min_tokens=sampling.min_tokens
        )
