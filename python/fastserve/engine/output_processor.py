"""Engine outputs -> text deltas: the state of live requests in the frontend. Everything here is on one thread."""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from fastserve.engine.admission import sequence_sampling
from fastserve.engine.request import EngineRequest, pack_token_ids
from fastserve.errors import FastServeError, InternalError, InvalidArgumentError, cause_of
from fastserve.log import get_logger
from fastserve.logprobs import PromptLogprobs, TokenLogprobs
from fastserve.tokenizer import IncrementalDetokenizer, Tokenizer
from fastserve.types import (
    CompletionDelta,
    EngineOutput,
    FinishReason,
    RequestEvent,
    RequestStats,
    SamplingParams,
    SchedulingParams,
)

logger = get_logger(__name__)

Facts = dict[str, object]

_PROMPT_NAME = re.compile(r"(.+)-([0-9]{1,4})")


class Completion:
    """One completion of a prompt: collects what is new until the consumer takes it, so a slow one holds one delta."""

    __slots__ = (
        "_detokenizer",
        "_error",
        "_event",
        "_failure",
        "_finish_reason",
        "_logprobs",
        "_num_cached_tokens",
        "_num_tokens",
        "_prompt_logprobs",
        "_prompt_only",
        "_stats",
        "_stop_reason",
        "_stop_string",
        "_stop_token_ids",
        "_text",
        "_token_ids",
        "has_update",
        "index",
        "request",
    )

    def __init__(
        self, request: "LiveRequest", index: int, sampling: SamplingParams, detokenizer: IncrementalDetokenizer
    ) -> None:
        self.request = request
        self.has_update = False
        self.index = index
        self._detokenizer = detokenizer
        self._stop_token_ids = sampling.stop_token_ids
        self._stop_string: str | None = None
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._num_cached_tokens = 0
        self._num_tokens = 0
        self._prompt_logprobs: tuple[PromptLogprobs, ...] = ()
        self._prompt_only = sampling.max_tokens == 0
        self._finish_reason: FinishReason | None = None
        self._stop_reason: int | str | None = None
        self._stats: RequestStats | None = None
        self._error: str | None = None
        self._failure: str | None = None
        self._event: Facts | None = None

    def add(self, output: EngineOutput) -> bool:
        """Take an engine output; return whether the completion has just ended while the engine still runs it.

        It does so at a stop string, or where its text cannot be made; the latter is its error.
        """
        if self._prompt_only:
            output = _without_token(output)
        self._prompt_logprobs += output.prompt_logprobs
        reason = output.finish_reason
        ended = self._stop_string is not None or self._failure is not None
        if not ended:
            try:
                self._add_text(output)
            except Exception as error:
                logger.exception("the text of request %s could not be made", self.request.request_id)
                self._failure = f"the text could not be made: {cause_of(error)}"
            self._mark_updated()
        if reason is not None:
            self._finish(output, reason)
            return False
        return not ended and (self._stop_string is not None or self._failure is not None)

    @property
    def stopped_after(self) -> int | None:
        """Number of tokens in the answer when a stop string ended it."""
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

    def note(self, facts: Facts) -> None:
        """Replace the facts about the completion's state by the scheduler's newest ones."""
        self._event = facts

    def take_event(self) -> RequestEvent | None:
        """Return the newest word of the scheduler, once."""
        facts, self._event = self._event, None
        return None if facts is None else RequestEvent(self.index, facts)

    def take(self) -> CompletionDelta:
        """Return what is new since the last call; see `LiveRequest.take`."""
        delta = CompletionDelta(
            index=self.index,
            text="".join(self._text),
            token_ids=tuple(self._token_ids),
            logprobs=tuple(self._logprobs),
            prompt_logprobs=self._prompt_logprobs,
            finish_reason=self._finish_reason,
            stop_reason=self._stop_reason,
            num_cached_tokens=self._num_cached_tokens,
            stats=self._stats,
            error=self._error,
        )
        self._text.clear()
        self._token_ids.clear()
        self._logprobs.clear()
        self._prompt_logprobs = ()
        self.has_update = False
        return delta

    def _mark_updated(self) -> None:
        if not self.has_update:
            self.has_update = True
            self.request.updated.append(self)

    def _finish(self, output: EngineOutput, reason: FinishReason) -> None:
        self._mark_updated()
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


def _without_token(output: EngineOutput) -> EngineOutput:
    """The output of a request that wants none: the engine ends a prefill with a token."""
    reason = FinishReason.LENGTH if output.finish_reason is FinishReason.STOP else output.finish_reason
    return replace(output, token_ids=(), logprobs=(), stop_token_id=None, finish_reason=reason)


@dataclass(slots=True, eq=False)
class LiveRequest:
    """The prompts of one call, whose completions are not all delivered.

    Attributes:
        request_id: the user's.
        num_samples: completions of each prompt.
        sequences: what to send to the engine, one per completion: sample j of prompt i is number i * num_samples + j.
        completions: likewise.
        updated: completions with an untaken delta, each once.
        failure: set when the whole request failed; raised after the deltas that came before it.
        num_open: sequences whose last output has not come.
        wake: called when something is new.
    """

    request_id: str
    num_samples: int
    sequences: tuple[EngineRequest, ...] = ()
    completions: tuple[Completion, ...] = ()
    updated: list[Completion] = field(default_factory=list)
    failure: FastServeError | None = None
    num_open: int = 0
    wake: Callable[[], None] | None = None

    def take(self) -> list[CompletionDelta]:
        """Return the new deltas, at most one per completion."""
        deltas = [completion.take() for completion in self.updated]
        self.updated.clear()
        return deltas

    def take_events(self) -> list[RequestEvent]:
        """Return the new events, the last of each completion."""
        events = [completion.take_event() for completion in self.completions]
        return [event for event in events if event is not None]

    def wake_up(self) -> None:
        """Wake the consumer: there is something new to take."""
        if self.wake is not None:
            self.wake()

    @property
    def finished(self) -> bool:
        """Whether the engine has sent the last output of every completion."""
        return self.num_open == 0


@dataclass(frozen=True, slots=True)
class Processed:
    """The effects of a batch of outputs.

    Attributes:
        updated: requests that have new deltas, each once.
        to_stop: sequences that a stop string ended, which the engine must end, with the tokens of their answers.
        to_abort: sequences that an error ended here, likewise.
    """

    updated: Iterable[LiveRequest]
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

    def add(
        self,
        request_id: str,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        scheduling: SchedulingParams | None = None,
        *,
        watch: bool = False,
        wake: Callable[[], None] | None = None,
        bad_word_ids: tuple[tuple[int, ...], ...] = (),
    ) -> LiveRequest:
        """Register the prompts of a call; its `sequences` are to be sent to the engine.

        Args:
            request_id: the user's.
            prompts: checked token ids, see `check_prompt`.
            sampling: of every prompt; n completions of each.
            scheduling: likewise.
            watch: events of the scheduler are wanted.
            wake: called by `LiveRequest.wake_up`.
            bad_word_ids: sequences of tokens that no output must contain; for `sampling.bad_words`.
        Raises:
            InvalidArgumentError: a live request has this id.
        """
        if request_id in self._requests:
            raise InvalidArgumentError(f"request_id must be unique among live requests, got {request_id!r:.100} again")
        scheduling = scheduling or SchedulingParams()
        samples = [sequence_sampling(sampling, index) for index in range(sampling.n)]
        request = LiveRequest(request_id, sampling.n, num_open=len(prompts) * sampling.n, wake=wake)
        sequences: list[EngineRequest] = []
        completions: list[Completion] = []
        for prompt in prompts:
            packed = pack_token_ids(prompt)
            for sample in samples:
                sequences.append(EngineRequest(next(self._ids), packed, sample, scheduling, watch, bad_word_ids))
                completions.append(Completion(request, len(completions), sampling, self._detokenizer(prompt, sampling)))
        request.sequences, request.completions = tuple(sequences), tuple(completions)
        self._requests[request_id] = request
        for sequence, completion in zip(sequences, completions, strict=True):
            self._sequences[sequence.request_id] = completion
        return request

    def get(self, request_id: str) -> LiveRequest | None:
        """Return a live request."""
        return self._requests.get(request_id)

    def open_sequences(self, request: LiveRequest) -> list[int]:
        """Return the sequences of a request whose last output has not come."""
        return self._open(request.sequences)

    def named_sequences(self, name: str) -> tuple[Sequence[EngineRequest], list[int]]:
        """Return the sequences of a request, or with `{request_id}-{i}` those of its i-th prompt; and which are open."""
        sequences: Sequence[EngineRequest] = ()
        if (request := self._requests.get(name)) is not None:
            sequences = request.sequences
        elif (parts := _PROMPT_NAME.fullmatch(name)) and (request := self._requests.get(parts[1])) is not None:
            first = int(parts[2]) * request.num_samples
            sequences = request.sequences[first : first + request.num_samples]
        return sequences, self._open(sequences)

    def _open(self, sequences: Sequence[EngineRequest]) -> list[int]:
        return [s.request_id for s in sequences if s.request_id in self._sequences]

    def process(self, outputs: Iterable[EngineOutput]) -> Processed:
        """Take the outputs of a step; those of requests already removed are ignored."""
        updated: dict[int, LiveRequest] = {}
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
            updated[id(request)] = request
        return Processed(updated.values(), to_stop, to_abort)

    def note(self, sequence_id: int, facts: Facts) -> None:
        """Take an event of the scheduler."""
        completion = self._sequences.get(sequence_id)
        if completion is not None:
            completion.note(facts)
            completion.request.wake_up()

    def fail_sequence(self, sequence_id: int, failure: FastServeError) -> None:
        """Fail the request of a sequence that the engine refused."""
        completion = self._sequences.get(sequence_id)
        if completion is not None:
            self._fail(completion.request, failure)

    def fail_all(self, failure: FastServeError) -> None:
        """Fail every live request that has not ended."""
        for request in self._requests.values():
            if not request.finished:
                self._fail(request, failure)

    def remove(self, request: LiveRequest) -> list[int]:
        """Forget a request; return its sequences that the engine must abort."""
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

    def _detokenizer(self, prompt: Sequence[int], sampling: SamplingParams) -> IncrementalDetokenizer:
        return IncrementalDetokenizer(
            self._tokenizer,
            prompt,
            stop=sampling.stop,
            min_tokens=sampling.min_tokens,
            keep_stop=sampling.include_stop_str_in_output,
            skip_special_tokens=sampling.skip_special_tokens,
        )
