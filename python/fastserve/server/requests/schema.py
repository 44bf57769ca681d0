"""The request bodies, as strict pydantic models; `validation` makes them.

Ranges of the sampling fields are checked where they are defined, by `SamplingParams`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints
from pydantic_core import PydanticCustomError

from fastserve.errors import InvalidArgumentError
from fastserve.server.errors import bad_request, prompt_overflow
from fastserve.server.requests.body_shape import MAX_MESSAGES, MAX_TEMPLATE_KWARGS, check_json_size
from fastserve.server.requests.ignored_fields import CHAT_NOOP_VALUES, COMPLETION_NOOP_VALUES
from fastserve.server.requests.messages import Messages
from fastserve.server.requests.output_form import OutputForm, ResponseFormat, form_of
from fastserve.server.requests.tools import ToolChoice, Tools, check_choice
from fastserve.tokenizer.chat_template import TemplateOptions
from fastserve.types import (
    MAX_DEADLINE_S,
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MIN_OBJECTIVE_S,
    MIN_PAUSE_S,
    SamplingDefaults,
    SamplingParams,
    SchedulingParams,
    StructuredOutputs,
)

# Completions of one request, over all its prompts.
MAX_CHOICES = 1024
# Token ids that /detokenize takes at a time, or those of a whole context where that is longer.
MAX_DETOKENIZED = 1 << 17
DEFAULT_COMPLETION_TOKENS = 16


def _check_template_kwargs(values: dict[str, object]) -> dict[str, object]:
    check_json_size("chat_template_kwargs", values)
    return values


# Clients write numbers as texts, and whole ones as floats: "5", 5.0. `validation` refuses true and false.
Integer = Annotated[int, Field(strict=False)]
Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]
# "false", 0 and the like, as pydantic takes them.
Switch = Annotated[bool, Field(strict=False)]
# A list stops at its first bad item: a megabyte of bad items must not become a megabyte of complaints.
TokenIds = Annotated[list[int], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]
StopStrings = Annotated[str | Texts, AfterValidator(lambda stop: [stop] if isinstance(stop, str) else stop)]
RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:\-]{1,128}$")]
LengthClass = Annotated[str, StringConstraints(max_length=256)]
CacheSalt = Annotated[str, StringConstraints(max_length=256)]
Deadline = Annotated[float, Field(strict=False, gt=0, le=MAX_DEADLINE_S, allow_inf_nan=False)]
Pause = Annotated[float, Field(strict=False, ge=MIN_PAUSE_S, le=MAX_DEADLINE_S, allow_inf_nan=False)]
Objective = Annotated[float, Field(strict=False, ge=MIN_OBJECTIVE_S, le=MAX_DEADLINE_S, allow_inf_nan=False)]
Priority = Annotated[int, Field(strict=False, ge=-(2**31), lt=2**31)]
TemplateKwargs = Annotated[
    dict[str, object], Field(max_length=MAX_TEMPLATE_KWARGS), AfterValidator(_check_template_kwargs)
]
Truncation = Annotated[int, Field(strict=False, ge=-1, lt=2**31)]


def _biases(biases: dict[str, float]) -> dict[int, float]:
    """Keys in JSON are texts; values beyond the range are cut to it, as vLLM does."""
    found: dict[int, float] = {}
    for key, value in biases.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise PydanticCustomError("token_id", "keys should be token ids, got {key}", {"key": repr(key[:20])})
        found[int(key)] = min(MAX_LOGIT_BIAS, max(-MAX_LOGIT_BIAS, value))
    return found


LogitBias = Annotated[dict[str, Number], AfterValidator(_biases)]


class RequestBody(BaseModel):
    """Base of all request bodies."""

    model_config = ConfigDict(extra="forbid", strict=True)
    noop_values: ClassVar[dict[str, tuple[object, ...]]] = {}

    @classmethod
    def translate(cls, body: Mapping[str, object]) -> Mapping[str, object]:
        """The fields of the model, from those that clients send; the same unless it says otherwise.

        Raises:
            ApiError: 400 that names the field.
        """
        return body

    def check_lengths(self, max_model_len: int) -> None:
        """Refuse lists of token ids that no context could hold, before anything more is done with them.

        Raises:
            ApiError: 400.
        """


class StreamOptions(RequestBody):
    """Options of a stream. `include_events`: send an SSE comment whenever the scheduler parks, resumes or moves a choice."""

    include_usage: Switch = False
    continuous_usage_stats: Switch = False
    include_events: Switch = False
    include_obfuscation: Literal[False] = False

    @property
    def usage_in_chunks(self) -> bool:
        """Whether every chunk carries the usage so far."""
        return self.include_usage and self.continuous_usage_stats


class GenerationRequest(RequestBody):
    """Base of completion and chat bodies.

    A field with the name of one of `SamplingParams` or `SchedulingParams` becomes that one.
    """

    id_prefix: ClassVar[str]  # of the ids that the server gives

    model: str | None = None
    max_tokens: Integer | None = None
    min_tokens: Integer = 0
    # None = not given: the model's default stands.
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Integer | None = None
    min_p: Number | None = None
    presence_penalty: Number = 0.0
    frequency_penalty: Number = 0.0
    repetition_penalty: Number | None = None
    seed: Integer | None = None
    stop: StopStrings = Field(default_factory=list)
    stop_token_ids: TokenIds = Field(default_factory=list)
    include_stop_str_in_output: Switch = False
    skip_special_tokens: Switch = True
    ignore_eos: Switch = False
    logit_bias: LogitBias = Field(default_factory=dict)
    allowed_token_ids: TokenIds | None = None
    bad_words: Texts = Field(default_factory=list)
    prompt_logprobs: Integer | None = None
    n: Integer = 1
    response_format: ResponseFormat | None = None
    structured_outputs: OutputForm | None = None
    stream: Switch = False
    stream_options: StreamOptions | None = None
    priority: Priority = 0
    request_id: RequestId | None = None
    cache_salt: CacheSalt = ""
    length_class: LengthClass = ""
    deadline_s: Deadline | None = None
    max_pause_s: Pause | None = None
    ttft_slo_s: Objective | None = None
    tpot_slo_s: Objective | None = None
    truncate_prompt_tokens: Truncation | None = None
    return_token_ids: Switch = False

    def sampling_params(self, defaults: SamplingDefaults) -> SamplingParams:
        """The sampling fields; `defaults` stands for those that were not given.

        Raises:
            InvalidArgumentError: a value is out of its range.
            ApiError: 400, two fields contradict each other.
        """
        asked = _given(self, _SAMPLING)
        asked |= {"max_tokens": defaults.cap(self._max_tokens(defaults)), "logprobs": self.num_logprobs()}
        asked |= {"structured_outputs": self.output_form(), "prompt_logprobs": self.num_prompt_logprobs()}
        return SamplingParams(**defaults.given() | asked)

    def scheduling_params(self) -> SchedulingParams:
        """The scheduling fields."""
        return SchedulingParams(**_given(self, _SCHEDULING))

    def stream_settings(self) -> StreamOptions | None:
        """The options of the stream; None = the reply comes in one piece.

        Raises:
            ApiError: 400, options without a stream, or a stream of what comes in one piece only.
        """
        if self.stream and self.num_prompt_logprobs() is not None:
            name = "echo with logprobs" if self.prompt_logprobs is None else "prompt_logprobs"
            message = f"{name} is not available with stream: true; leave one out"
            raise bad_request(message, name.split(maxsplit=1)[0], "invalid_value")
        if self.stream_options is not None and not self.stream:
            raise bad_request("stream_options needs stream: true", "stream_options", "invalid_value")
        return self.stream_options or StreamOptions() if self.stream else None

    def max_tokens_asked(self) -> int | None:
        """The limit of the output as the client set it."""
        return self.max_tokens

    def default_max_tokens(self, defaults: SamplingDefaults) -> int | None:
        """The limit where the client has set none; None = up to the model's context."""
        raise NotImplementedError

    def output_form(self) -> StructuredOutputs | None:
        """The form that the output must have; None = any text.

        Raises:
            ApiError: 400, it is not one.
        """
        return form_of(self.response_format, self.structured_outputs)

    def form_field(self) -> str:
        """The field in which the form came, for errors."""
        return "response_format" if self.structured_outputs is None else "structured_outputs"

    def num_logprobs(self) -> int | None:
        """`SamplingParams.logprobs`."""
        raise NotImplementedError

    def num_prompt_logprobs(self) -> int | None:
        """`SamplingParams.prompt_logprobs`."""
        return self.prompt_logprobs

    def _max_tokens(self, defaults: SamplingDefaults) -> int | None:
        asked = self.max_tokens_asked()
        return self.default_max_tokens(defaults) if asked is None else asked


def _given(body: GenerationRequest, names: Iterable[str]) -> dict[str, Any]:
    """The values that the body has under these names."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name in names
        if (value := getattr(body, name)) is not None
    }


# What has another form in a body.
_OTHERWISE = ("structured_outputs",)
_SAMPLING = tuple(field.name for field in fields(SamplingParams) if field.name not in _OTHERWISE)
_SCHEDULING = tuple(field.name for field in fields(SchedulingParams))


class CompletionRequest(GenerationRequest):
    """Body of `/v1/completions`."""

    noop_values: ClassVar[dict[str, tuple[object, ...]]] = COMPLETION_NOOP_VALUES
    id_prefix: ClassVar[str] = "cmpl-"

    prompt: str | TokenIds | Texts | Annotated[list[TokenIds], Field(fail_fast=True)]
    logprobs: Integer | None = None
    echo: Switch = False
    add_special_tokens: Switch = True

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

    def default_max_tokens(self, defaults: SamplingDefaults) -> int | None:
        return DEFAULT_COMPLETION_TOKENS

    def num_logprobs(self) -> int | None:
        return self.logprobs

    def num_prompt_logprobs(self) -> int | None:
        """Log-probabilities of an echo are those of the prompt as well."""
        return self.logprobs if self.prompt_logprobs is None and self.echo else self.prompt_logprobs

    def check_lengths(self, max_model_len: int) -> None:
        for prompt in self.prompts() if self.truncate_prompt_tokens is None else ():
            if isinstance(prompt, list) and len(prompt) >= max_model_len:
                raise prompt_overflow(max_model_len, f"{len(prompt)} tokens", "prompt")


class Conversation(RequestBody):
    """Messages, and what else the chat template gets."""

    messages: Messages | None
    tools: Tools | None = None
    add_generation_prompt: Switch = True
    continue_final_message: Switch = False
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)
    _rows: bytes = PrivateAttr(b"")

    def template_rows(self) -> bytes:
        """The messages in the form that chat templates expect, as JSON."""
        return self._rows or msgspec.json.encode([message.as_template_row() for message in self.messages or ()])

    def template_options(self, defaults: Mapping[str, object]) -> TemplateOptions:
        """What the template gets besides the messages; `defaults`: variables that a request may override.

        Raises:
            InvalidArgumentError: two fields contradict each other, or a variable has a name that is taken.
        """
        is_given = "add_generation_prompt" in self.model_fields_set
        return TemplateOptions(
            add_generation_prompt=self.add_generation_prompt if is_given else not self.continue_final_message,
            continue_final_message=self.continue_final_message,
            tools=tuple(tool.as_template_value() for tool in self.tools or ()) or None,
            variables={**defaults, **self.chat_template_kwargs, **self.own_variables()},
        )

    def own_variables(self) -> dict[str, object]:
        """Variables of the template that other fields set."""
        return {}

    def put_rows(self, rows: bytes) -> None:
        """Replace the messages by these."""
        self._rows = rows


class ChatRequest(GenerationRequest, Conversation):
    """Body of `/v1/chat/completions`."""

    noop_values: ClassVar[dict[str, tuple[object, ...]]] = CHAT_NOOP_VALUES
    id_prefix: ClassVar[str] = "chatcmpl-"

    messages: Messages = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Integer | None = None
    logprobs: Switch = False
    top_logprobs: Integer = 0
    add_special_tokens: Switch = False
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: Switch = True
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    include_reasoning: Switch = True

    def choice(self) -> ToolChoice:
        """Which of its tools the model is to call; raises as `check_choice`."""
        return check_choice(self.tools, self.tool_choice)

    def own_variables(self) -> dict[str, object]:
        if self.reasoning_effort is None:
            return {}
        thinks = self.chat_template_kwargs.get("enable_thinking", self.reasoning_effort != "none")
        return {"reasoning_effort": self.reasoning_effort, "enable_thinking": thinks}

    def max_tokens_asked(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def default_max_tokens(self, defaults: SamplingDefaults) -> int | None:
        return defaults.max_tokens

    def num_logprobs(self) -> int | None:
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
    add_special_tokens: Switch | None = None
    return_token_strs: Switch = False


class DetokenizeRequest(RequestBody):
    """Body of `/detokenize`."""

    model: str | None = None
    tokens: TokenIds

    def check_lengths(self, max_model_len: int) -> None:
        limit = max(max_model_len, MAX_DETOKENIZED)
        if len(self.tokens) > limit:
            message = f"tokens must be at most {limit} token ids, got {len(self.tokens)}; send several requests"
            raise bad_request(message, "tokens", "invalid_value")
