"""The words of the two generation routes: whole JSON objects and stream chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastserve.logprobs import PromptLogprobs, TokenLogprobs
from fastserve.server.errors import ApiError
from fastserve.server.parsers.message_format import MessageFormat
from fastserve.server.requests.schema import ChatRequest, CompletionRequest, GenerationRequest
from fastserve.server.responses.chat_message import ChatMessageWriter
from fastserve.server.responses.generation import Generation
from fastserve.server.responses.logprobs import ChatLogprobs, CompletionLogprobs, PromptLogprobRows, prompt_entries
from fastserve.server.responses.sse import DONE, ChunkEncoder, event, json_fields, to_json
from fastserve.server.server_state import ServerState
from fastserve.types import CompletionDelta, FinishReason


@dataclass(slots=True)
class GatheredChoice:
    """A choice being gathered for a reply in one piece."""

    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[PromptLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def add(self, delta: CompletionDelta) -> None:
        """Append one delta."""
        self.pieces.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        self.prompt_logprobs.extend(delta.prompt_logprobs)
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason


class ResponseFormatter(Protocol):
    """How one route words its reply. Usage objects are those of `UsageTally.as_json`."""

    def opening(self, choice: int) -> bytes:
        """The chunk before a choice's first text; empty when there is none."""
        ...

    def chunk(self, delta: CompletionDelta, usage: dict[str, object] | None) -> bytes:
        """The chunk of one delta; empty when it has nothing to tell."""
        ...

    def ending(self, usage: dict[str, object], *, include_usage: bool) -> bytes:
        """What closes a stream."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """What closes a stream that has begun and fails."""
        ...

    def whole(self, choices: Sequence[GatheredChoice], usage: dict[str, object]) -> bytes:
        """The reply in one piece."""
        ...


class CompletionFormatter:
    """`text_completion` objects.

    Args:
        state: has the model's name and tokenizer.
        generation: to be worded.
        body: says what to show.
        echoes: the prompt's text per prompt, to be put before the output; None without `echo`.
    """

    def __init__(
        self,
        state: ServerState,
        generation: Generation,
        body: CompletionRequest,
        echoes: Sequence[str] | None = None,
    ) -> None:
        num_choices, tokenizer = generation.num_choices, state.ready_engine().tokenizer
        self._envelope = _envelope(state, generation, "text_completion")
        self._chunks = ChunkEncoder(
            self._envelope, num_choices, text_open=b'"text":', text_close=b"", usage_null=_usage_null(body)
        )
        self._echoes = [echo for echo in echoes for _ in range(generation.sampling.n)] if echoes else None
        self._logprobs = [CompletionLogprobs(tokenizer) for _ in range(num_choices)]
        self._generation = generation
        self._shows_ids = body.return_token_ids
        self._echoes_logprobs = body.echo and body.logprobs is not None
        self._prompt_logprobs = PromptLogprobRows(tokenizer, body.prompt_logprobs)
        self._unopened = set(range(num_choices))  # choices whose first chunk with ids is to come

    def opening(self, choice: int) -> bytes:
        return self._chunks.text(choice, self._echoes[choice]) if self._echoes else b""

    def chunk(self, delta: CompletionDelta, usage: dict[str, object] | None) -> bytes:
        if delta.finish_reason is None and usage is None and not delta.logprobs and not self._shows_ids:
            return self._chunks.text(delta.index, delta.text) if delta.text else b""
        return self._chunks.full(
            delta.index,
            self._chunks.wrap(delta.text),
            logprobs=self._logprobs[delta.index].format(delta.token_ids, delta.logprobs) if delta.logprobs else None,
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
            usage=usage,
            choice_fields=self._ids(delta) if self._shows_ids else b"",
        )

    def _ids(self, delta: CompletionDelta) -> bytes:
        if delta.index not in self._unopened:
            return json_fields(token_ids=delta.token_ids)
        self._unopened.discard(delta.index)
        return json_fields(token_ids=delta.token_ids, prompt_token_ids=self._generation.prompt_of(delta.index))

    def ending(self, usage: dict[str, object], *, include_usage: bool) -> bytes:
        return (self._chunks.usage(usage) if include_usage else b"") + DONE

    def failure(self, error: ApiError) -> bytes:
        return event(error.body())

    def whole(self, choices: Sequence[GatheredChoice], usage: dict[str, object]) -> bytes:
        rows = []
        for i, choice in enumerate(choices):
            text = "".join(choice.pieces)
            of_prompt = choices[i - i % self._generation.sampling.n].prompt_logprobs
            logprobs = self._whole_logprobs(i, choice, of_prompt)
            row = {"index": i, "text": self._echoes[i] + text if self._echoes else text}
            ids = {"token_ids": choice.token_ids, "prompt_token_ids": self._generation.prompt_of(i)}
            scores = self._prompt_logprobs.fields(self._generation.prompt_of(i), of_prompt)
            rows.append(row | _ending(choice, logprobs) | scores | (ids if self._shows_ids else {}))
        return to_json(self._envelope | {"choices": rows, "usage": usage})

    def _whole_logprobs(
        self, index: int, choice: GatheredChoice, of_prompt: Sequence[PromptLogprobs]
    ) -> dict[str, object] | None:
        """Those of the output; with `echo` those of the prompt before them."""
        if self._echoes_logprobs:
            ids = [*self._generation.prompt_of(index), *choice.token_ids]
            return self._logprobs[index].format(ids, [*prompt_entries(of_prompt), *choice.logprobs])
        return self._logprobs[index].format(choice.token_ids, choice.logprobs) if choice.logprobs else None


class ChatFormatter:
    """`chat.completion` objects and `chat.completion.chunk` events.

    Args:
        state: has the model's name and tokenizer.
        generation: to be worded.
        body: says what to show.
        form: how the messages are written.
    """

    def __init__(self, state: ServerState, generation: Generation, body: ChatRequest, form: MessageFormat) -> None:
        self._envelope = _envelope(state, generation, "chat.completion")
        self._chunks = ChunkEncoder(
            _envelope(state, generation, "chat.completion.chunk"),
            generation.num_choices,
            text_open=b'"delta":{"content":',
            text_close=b"}",
            usage_null=_usage_null(body),
        )
        self._writers = [ChatMessageWriter(form) for _ in range(generation.num_choices)]
        self._is_plain = form.is_plain
        self._logprobs = ChatLogprobs(state.ready_engine().tokenizer)
        self._prompt_logprobs = PromptLogprobRows(state.ready_engine().tokenizer, body.prompt_logprobs)
        self._prompt = generation.prompts[0]
        self._prompt_ids = {"prompt_token_ids": generation.prompts[0]} if body.return_token_ids else {}
        self._shows_ids = body.return_token_ids

    def opening(self, choice: int) -> bytes:
        payload = b'"delta":{"role":"assistant","content":""}'
        return self._chunks.full(choice, payload, chunk_fields=json_fields(**self._prompt_ids))

    def chunk(self, delta: CompletionDelta, usage: dict[str, object] | None) -> bytes:
        short = delta.finish_reason is None and usage is None and not delta.logprobs and not self._shows_ids
        if short and self._is_plain:
            return self._chunks.text(delta.index, delta.text) if delta.text else b""
        writer = self._writers[delta.index]
        fields = writer.delta(delta.text, last=delta.finish_reason is not None)
        if short and not fields:
            return b""
        return self._chunks.full(
            delta.index,
            b'"delta":' + to_json(fields),
            logprobs=self._logprobs.format(delta.token_ids, delta.logprobs) if delta.logprobs else None,
            finish_reason=writer.finish_reason(delta.finish_reason),
            stop_reason=delta.stop_reason,
            usage=usage,
            choice_fields=json_fields(token_ids=delta.token_ids) if self._shows_ids else b"",
        )

    def ending(self, usage: dict[str, object], *, include_usage: bool) -> bytes:
        return (self._chunks.usage(usage) if include_usage else b"") + DONE

    def failure(self, error: ApiError) -> bytes:
        return event(error.body())

    def whole(self, choices: Sequence[GatheredChoice], usage: dict[str, object]) -> bytes:
        rows = []
        for i, (choice, writer) in enumerate(zip(choices, self._writers, strict=True)):
            logprobs = self._logprobs.format(choice.token_ids, choice.logprobs) if choice.logprobs else None
            message = writer.whole("".join(choice.pieces))
            ids = {"token_ids": choice.token_ids} if self._shows_ids else {}
            ending = _ending(choice, logprobs) | {"finish_reason": writer.finish_reason(choice.finish_reason)}
            rows.append({"index": i, "message": message} | ending | ids)
        scores = self._prompt_logprobs.fields(self._prompt, choices[0].prompt_logprobs)
        return to_json(self._envelope | {"choices": rows, "usage": usage} | scores | self._prompt_ids)


def _envelope(state: ServerState, generation: Generation, kind: str) -> dict[str, object]:
    return {"id": generation.request_id, "object": kind, "created": generation.created, "model": state.model_name}


def _usage_null(body: GenerationRequest) -> bool:
    stream = body.stream_settings()
    return stream is not None and stream.include_usage


def _ending(choice: GatheredChoice, logprobs: dict[str, object] | None) -> dict[str, object]:
    return {"logprobs": logprobs, "finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}
