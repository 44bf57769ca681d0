"""The request bodies, as strict pydantic models: unknown fields and wrong types are 400s that name the field.

Ranges of the sampling fields are checked where they are defined, by `SamplingParams`.
"""

from typing import Annotated, ClassVar, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError

from fastserve.errors import InvalidArgumentError
from fastserve.server.body_shape import MAX_MESSAGES, check_shape
from fastserve.server.errors import ApiError, bad_request, prompt_overflow, to_api_error
from fastserve.server.messages import Messages
from fastserve.server.off_fields import CHAT_OFF, COMPLETION_OFF, MESSAGE_OFF, drop_off_fields
from fastserve.types import MAX_LOGPROBS, MIN_PAUSE_S, SamplingDefaults, SamplingParams

MAX_COMPLAINTS = 256
# Names of fields are quoted up to here: they may be as long as the body.
MAX_NAME_CHARS = 64
# Token ids that /detokenize takes at a time, or those of a whole context where that is longer.
MAX_DETOKENIZED = 1 << 17
DEFAULTED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

# A list stops at its first bad item: a megabyte of bad items must not become a megabyte of complaints.
TokenIds = Annotated[list[int], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]
RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:\-]{1,128}$")]
LengthClass = Annotated[str, StringConstraints(max_length=256)]
CacheSalt = Annotated[str, StringConstraints(max_length=256)]
Deadline = Annotated[float, Field(gt=0, le=1e9)]
Pause = Annotated[float, Field(ge=MIN_PAUSE_S, le=1e9)]
Priority = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    off_fields: ClassVar[dict[str, tuple[object, ...]]] = {}

    def check_lengths(self, max_model_len: int) -> None:
        """Refuse lists of token ids that no context could hold, before anything more is done with them.

        Raises:
            ApiError: 400.
        """


class StreamOptions(_Body):
    """Extras of a stream. `include_events`: an SSE comment whenever the scheduler parks, resumes or moves a choice."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_events: bool = False
    include_obfuscation: Literal[False] = False


class _Generation(_Body):
    """What completions and chat have in common."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    # None = not given: the model's default stands.
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | Texts = Field(default_factory=list)
    stop_token_ids: TokenIds = Field(default_factory=list)
    ignore_eos: bool = False
    n: int = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    priority: Priority = 0
    request_id: RequestId | None = None
    cache_salt: CacheSalt = ""
    length_class: LengthClass = ""
    deadline_s: Deadline | None = None
    max_pause_s: Pause | None = None

    def sampling(self, defaults: SamplingDefaults, *, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
        """The engine's form of the sampling fields; `defaults` stands for those that were not given.

        Raises:
            InvalidArgumentError: a value is out of its range.
        """
        asked = {name: getattr(self, name) for name in DEFAULTED}
        chosen = defaults.given() | {name: value for name, value in asked.items() if value is not None}
        return SamplingParams(
            **chosen | {"max_tokens": max_tokens},
            min_tokens=self.min_tokens,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
            n=self.n,
        )


class CompletionRequest(_Generation):
    """Body of `/v1/completions`."""

    off_fields: ClassVar[dict[str, tuple[object, ...]]] = COMPLETION_OFF

    prompt: str | TokenIds | Texts | Annotated[list[TokenIds], Field(fail_fast=True)]
    logprobs: int | None = None
    echo: bool = False
    add_special_tokens: bool = True

    def prompts(self) -> list[str | TokenIds]:
        """The prompts as a list, whichever form they came in.

        Raises:
            ApiError: 400 when there are none.
        """
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise bad_request("prompt must not be empty", param="prompt", code="invalid_value")
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def check_lengths(self, max_model_len: int) -> None:
        for prompt in self.prompts():
            if isinstance(prompt, list) and len(prompt) >= max_model_len:
                raise prompt_overflow(max_model_len, f"{len(prompt)} tokens", "prompt")


class Conversation(_Body):
    """Messages, for the chat template."""

    _rows: bytes = PrivateAttr(b"")

    def template_rows(self) -> bytes:
        """The messages in the form that chat templates expect, as JSON."""
        return self._rows or msgspec.json.encode([message.as_template_row() for message in self.messages or ()])

    def put_rows(self, rows: bytes) -> None:
        """Have these in the place of the messages' own."""
        self._rows = rows


class ChatRequest(_Generation, Conversation):
    """Body of `/v1/chat/completions`."""

    off_fields: ClassVar[dict[str, tuple[object, ...]]] = CHAT_OFF

    messages: Messages = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    add_generation_prompt: bool = True
    add_special_tokens: bool = False

    def num_logprobs(self) -> int | None:
        """`SamplingParams.logprobs` for the two OpenAI fields."""
        if not 0 <= self.top_logprobs <= MAX_LOGPROBS:
            message = f"top_logprobs must be between 0 and {MAX_LOGPROBS}, got {self.top_logprobs}"
            raise InvalidArgumentError(message)
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
        return self.top_logprobs if self.logprobs else None


class TokenizeRequest(Conversation):
    """Body of `/tokenize`: a prompt, or messages to put through the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    add_generation_prompt: bool = True
    add_special_tokens: bool | None = None
    return_token_strs: bool = False


class DetokenizeRequest(_Body):
    """Body of `/detokenize`."""

    model: str | None = None
    tokens: TokenIds

    def check_lengths(self, max_model_len: int) -> None:
        limit = max(max_model_len, MAX_DETOKENIZED)
        if len(self.tokens) > limit:
            message = f"tokens must be at most {limit} token ids, got {len(self.tokens)}; send several requests"
            raise bad_request(message, "tokens", "invalid_value")


BodyT = TypeVar("BodyT", bound=_Body)


def parse_request(model: type[BodyT], body: dict[str, object]) -> BodyT:
    """Check a parsed JSON object against a model.

    Raises:
        ApiError: 400 that names the field.
    """
    check_shape(body)
    fields = drop_off_fields(body, model.off_fields)
    if isinstance(messages := fields.get("messages"), list):
        fields["messages"] = [
            drop_off_fields(row, MESSAGE_OFF, f"messages[{i}].") if isinstance(row, dict) else row
            for i, row in enumerate(messages)
        ]
    if isinstance(options := fields.get("stream_options"), dict):
        fields["stream_options"] = drop_off_fields(options, {})
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _describe(error) from None
    except InvalidArgumentError as error:
        raise to_api_error(error) from None


_FORMS = {
    "prompt": "a string, a list of token ids, or a list of either",
    "stop": "a string or a list of strings",
}


def _describe(error: ValidationError) -> ApiError:
    """The first complaint, in words that name the field and quote no long value."""
    if error.error_count() > MAX_COMPLAINTS:
        return bad_request(f"the body has {error.error_count()} unknown or wrong fields", code="invalid_value")
    complaints = error.errors(include_url=False, include_context=False)
    head = complaints[0]["loc"][0]
    if complaints[0]["type"] == "missing":
        return bad_request(f"{_path(complaints[0]['loc'])} is required", param=str(head), code="missing_field")
    if head in _FORMS and complaints[0]["type"] != "extra_forbidden":
        return bad_request(f"{head} must be {_FORMS[head]}", param=head, code="invalid_value")
    # Of the complaints about the members of a union, the deepest is about the member that was meant.
    chosen = max((row for row in complaints if row["loc"][0] == head), key=lambda row: len(row["loc"]))
    param = _path(chosen["loc"])
    if chosen["type"] == "extra_forbidden":
        return bad_request(f"unknown field {param!r}; remove it", param=param, code="unknown_field")
    message = chosen["msg"][0].lower() + chosen["msg"][1:]
    return bad_request(f"{param}: {message}, got {_short(chosen['input'])}", param=param, code="invalid_value")


def _path(location: tuple[int | str, ...]) -> str:
    """("messages", 0, "role") -> "messages[0].role"; the tags of union members are left out."""
    path = str(location[0])
    for part in location[1:]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not any(mark in part for mark in "[(") and part not in ("str", "int"):
            path += f".{part}"
    return path if len(path) <= MAX_NAME_CHARS else path[: MAX_NAME_CHARS - 3] + "..."


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, dict | list) else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."
