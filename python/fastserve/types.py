"""The values that cross rooms: parameters of requests, outputs, facts. All are frozen; none holds a tensor."""

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from fastserve.errors import InvalidArgumentError
from fastserve.logprobs import PromptLogprobs, TokenLogprobs

MAX_STOP_STRINGS = 16
MAX_STOP_TOKEN_IDS = 64
MAX_LOGPROBS = 20
MAX_BIASED_TOKENS = 1024
MAX_LOGIT_BIAS = 100.0
MAX_BAD_WORDS = 128
MAX_BAD_WORD_CHARS = 256
MAX_SEQUENCES = 128
MIN_REPETITION_PENALTY = 1e-6  # a logit divided by less may be infinite, and much less is 0 as a float32
MAX_REPETITION_PENALTY = 10.0
MAX_GRAMMAR_CHARS = 1 << 17  # of a schema, a grammar, or all choices together
MAX_CHOICE_TEXTS = 1024
# What the sampler gives in place of a token that could not be chosen.
NO_FINITE_LOGIT = -1
BAD_SETTINGS = -2  # a number out of its range
BAD_LISTS = -3  # a token of the history outside the vocabulary, or starts that do not fit


class FinishReason(StrEnum):
    """Why a request finished, in OpenAI's words where it has one."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    DEADLINE = "deadline"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidArgumentError(message)


def _require_number(name: str, value: float, low: float, high: float) -> None:
    """Check a number; both ends of the range must be valid as float32, so that every value between them rounds validly."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidArgumentError(f"{name} must be a number between {low:g} and {high:g}, got {_shown(value)}")


def _require_int(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidArgumentError(f"{name} must be an integer between {low} and {high}, got {_shown(value)}")


def _shown(value: object) -> str:
    """Return a value as text for an error message."""
    try:
        return f"{value!r:.100}"
    except ValueError:  # Python writes no integers of more than some thousand digits
        return "a number of thousands of digits"


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputs:
    """The form that an output must have; exactly one field is set. Sizes are checked on construction, texts by the engine.

    Attributes:
        json: a JSON schema, as JSON text.
        json_object: the output is a JSON object.
        regex: a regular expression that the whole output matches.
        choice: the output is one of these texts.
        grammar: a context-free grammar in EBNF, whose first rule is `root`.
        structural_tag: a description of tags and the schemas of what stands between them, as JSON text.
    """

    json: str | None = None
    json_object: bool = False
    regex: str | None = None
    choice: tuple[str, ...] = ()
    grammar: str | None = None
    structural_tag: str | None = None

    def __post_init__(self) -> None:
        given = [field.name for field in fields(self) if getattr(self, field.name) not in (None, False, ())]
        _require(
            len(given) == 1,
            f"structured_outputs must set exactly one of {', '.join(field.name for field in fields(self))},"
            f" got {', '.join(given) or 'none'}",
        )
        name, value = given[0], getattr(self, given[0])
        if name == "json_object":
            _require(value is True, f"structured_outputs.json_object must be true or false, got {_shown(value)}")
            return
        texts = value if name == "choice" else (value,)
        _require(
            isinstance(texts, tuple) and all(isinstance(text, str) and text for text in texts),
            f"structured_outputs.{name} must be {'non-empty texts' if name == 'choice' else 'a non-empty text'},"
            f" got {_shown(value)}",
        )
        _require(
            len(texts) <= MAX_CHOICE_TEXTS,
            f"structured_outputs.choice must be at most {MAX_CHOICE_TEXTS} texts, got {len(texts)}",
        )
        num_chars = sum(map(len, texts))
        _require(
            num_chars <= MAX_GRAMMAR_CHARS,
            f"structured_outputs.{name} must have at most {MAX_GRAMMAR_CHARS} characters, got {num_chars}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop; checked on construction.

    Attributes:
        max_tokens: maximum number of output tokens; None = up to the model's context; 0 = only the prompt is run.
        min_tokens: ignore stop tokens and stop strings before this many output tokens.
        temperature: 0 = greedy, as is every value below 1e-5.
        top_k: keep the k likeliest tokens; 0 or -1 = all.
        top_p: keep the smallest set of tokens with at least this probability, in (0, 1]; never fewer than one token.
        min_p: drop tokens less likely than min_p times the likeliest, in [0, 1].
        repetition_penalty: above 1, make tokens of prompt and output less likely (Hugging Face's rule), in [1e-6, 10].
        presence_penalty: subtract this from the logit of every token already produced, in [-2, 2].
        frequency_penalty: the same, times the number of occurrences of the token.
        seed: seed of the request's random numbers; None = chosen by the engine. The same seed gives the same tokens
            however often the request is preempted.
        stop: strings that end the output; they are removed from the text.
        stop_token_ids: tokens that end the output; they are removed from the text.
        include_stop_str_in_output: keep the stop string, or the text of the stop token, at the end of the text.
        skip_special_tokens: omit special tokens from the text.
        ignore_eos: continue after the end-of-sequence token.
        logit_bias: token id -> what is added to its logit, in [-100, 100], before the penalties.
        allowed_token_ids: the only tokens that may be sampled; None = all.
        bad_words: texts that the output must not contain, as far as their usual tokens are concerned.
        logprobs: number of likeliest tokens to report per position in addition to the chosen one; None = no logprobs.
        prompt_logprobs: the same for the tokens of the prompt after its first; such a prompt takes nothing from the prefix
            cache.
        n: number of independent completions of the prompt.
        structured_outputs: the form of the output; None = any text.
    """

    max_tokens: int | None = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    logit_bias: dict[int, float] = field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    structured_outputs: StructuredOutputs | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _require_int("max_tokens", self.max_tokens, 0, 2**31 - 1)
        _require_int("min_tokens", self.min_tokens, 0, 2**31 - 1)
        _require(
            self.max_tokens is None or self.min_tokens <= self.max_tokens,
            f"min_tokens must not be above max_tokens ({self.max_tokens}), got {self.min_tokens}",
        )
        _require_number("temperature", self.temperature, 0.0, 100.0)
        _require_int("top_k", self.top_k, -1, 2**31 - 1)
        _require_number("top_p", self.top_p, 0.0, 1.0)
        _require(self.top_p > 0.0, f"top_p must be in (0, 1], got {self.top_p!r}")
        _require_number("min_p", self.min_p, 0.0, 1.0)
        _require_number("repetition_penalty", self.repetition_penalty, MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY)
        _require_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _require_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None:
            _require_int("seed", self.seed, -(2**63), 2**63 - 1)
        _require(
            len(self.stop) <= MAX_STOP_STRINGS and all(isinstance(s, str) and s for s in self.stop),
            f"stop must be at most {MAX_STOP_STRINGS} non-empty strings, got {self.stop!r:.200}",
        )
        _require(
            len(self.stop_token_ids) <= MAX_STOP_TOKEN_IDS,
            f"stop_token_ids must hold at most {MAX_STOP_TOKEN_IDS} ids, got {len(self.stop_token_ids)}",
        )
        for token_id in self.stop_token_ids:
            _require_int("stop_token_ids", token_id, 0, 2**31 - 1)
        self._check_tokens_allowed()
        if self.logprobs is not None:
            _require_int("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.prompt_logprobs is not None:
            _require_int("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        _require_int("n", self.n, 1, MAX_SEQUENCES)
        _require(
            self.structured_outputs is None or isinstance(self.structured_outputs, StructuredOutputs),
            f"structured_outputs must be StructuredOutputs, got {_shown(self.structured_outputs)}",
        )

    def _check_tokens_allowed(self) -> None:
        _require(
            len(self.logit_bias) <= MAX_BIASED_TOKENS,
            f"logit_bias must name at most {MAX_BIASED_TOKENS} tokens, got {len(self.logit_bias)}",
        )
        for token_id, bias in self.logit_bias.items():
            _require_int("logit_bias", token_id, 0, 2**31 - 1)
            _require_number("logit_bias", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
        if self.allowed_token_ids is not None:
            count = len(self.allowed_token_ids)
            _require(
                1 <= count <= MAX_BIASED_TOKENS,
                f"allowed_token_ids must hold between 1 and {MAX_BIASED_TOKENS} ids, got {count}",
            )
            for token_id in self.allowed_token_ids:
                _require_int("allowed_token_ids", token_id, 0, 2**31 - 1)
        _require(
            len(self.bad_words) <= MAX_BAD_WORDS
            and all(isinstance(w, str) and w.strip() and len(w) <= MAX_BAD_WORD_CHARS for w in self.bad_words),
            f"bad_words must be at most {MAX_BAD_WORDS} words of 1 to {MAX_BAD_WORD_CHARS} characters, "
            f"got {self.bad_words!r:.200}",
        )


MIN_PAUSE_S = 0.001  # of SchedulingParams.max_pause_s: no iteration is shorter
MIN_OBJECTIVE_S = 1e-6  # of ttft_slo_s and tpot_slo_s
MAX_DEADLINE_S = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingParams:
    """When to run a request and what it may share; checked on construction.

    Attributes:
        priority: lower values run first (vLLM's meaning).
        cache_salt: requests share prefix-cache blocks only with requests of the same salt.
        length_class: name of a group of requests with outputs of similar length; policy `learned` learns each group apart.
        deadline_s: seconds after arrival when an unfinished request fails; None = never.
        max_pause_s: longest pause between two tokens, where memory allows; None = the engine's setting.
        ttft_slo_s: objective of the policy `slo`: time to the first token; None = the engine's setting.
        tpot_slo_s: the same for the mean time per output token after it.
    """

    priority: int = 0
    cache_salt: str = ""
    length_class: str = ""
    deadline_s: float | None = None
    max_pause_s: float | None = None
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None

    def __post_init__(self) -> None:
        _require_int("priority", self.priority, -(2**31), 2**31 - 1)
        if self.deadline_s is not None:
            _require_number("deadline_s", self.deadline_s, 0.0, MAX_DEADLINE_S)
        if self.max_pause_s is not None:
            _require_number("max_pause_s", self.max_pause_s, MIN_PAUSE_S, MAX_DEADLINE_S)
        for name in ("ttft_slo_s", "tpot_slo_s"):
            if getattr(self, name) is not None:
                _require_number(name, getattr(self, name), MIN_OBJECTIVE_S, MAX_DEADLINE_S)

    def after(self, elapsed_s: float) -> "SchedulingParams":
        """Return the parameters of a request that arrived `elapsed_s` seconds ago: its deadline is that much nearer."""
        if self.deadline_s is None:
            return self
        return replace(self, deadline_s=max(0.0, self.deadline_s - elapsed_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """Defaults for sampling fields that a request omits: the recommendations of the model's publisher.

    A field is None where there is no recommendation; then the default of `SamplingParams` applies. Values are checked on
    construction, as there.

    Attributes:
        max_tokens: default for requests without a limit, whose default would be the whole context.
        max_tokens_limit: upper bound of every request's max_tokens.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    max_tokens_limit: int | None = None

    def __post_init__(self) -> None:
        SamplingParams(**self.given())
        # A request may ask for no output; a default of none is a mistake.
        for name in ("max_tokens", "max_tokens_limit"):
            if (value := getattr(self, name)) is not None:
                _require_int(name, value, 1, 2**31 - 1)

    def given(self) -> dict[str, Any]:
        """Return the fields of `SamplingParams` that have a recommendation."""
        values = {name: getattr(self, name) for name in RECOMMENDABLE}
        return {name: value for name, value in values.items() if value is not None}

    def params(self) -> SamplingParams:
        """Return the parameters of a request that sets none."""
        return SamplingParams(**self.given())

    def cap(self, max_tokens: int | None) -> int | None:
        """Return `max_tokens`, but no more than `max_tokens_limit`; None = up to the model's context."""
        limits = [limit for limit in (max_tokens, self.max_tokens_limit) if limit is not None]
        return min(limits, default=None)


RECOMMENDABLE = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStats:
    """How a request has spent its time so far, seconds; clients get it as `usage.fastserve`.

    `queue_s` is the time before the first iteration. After it, time outside a batch counts as `parked_s` while the KV is on
    the device, as `host_s` while the KV is on the host or on its way there, and as `upload_wait_s` while an upload runs.
    """

    preemptions: int = 0
    parked_s: float = 0.0
    host_s: float = 0.0
    upload_wait_s: float = 0.0
    recomputed_tokens: int = 0
    queue_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOutput:
    """What one engine step did for one request.

    Attributes:
        token_ids: tokens appended in this step: none or one; the last one may be a stop token.
        logprobs: one entry per token when asked for.
        prompt_logprobs: those of the prompt when asked for, with the first output.
        finish_reason: set on the last output of the request.
        stop_token_id: the token that ended the request, when one did.
        num_cached_tokens: prompt tokens taken from the prefix cache.
        stats: set on the last output.
        error: why the request failed, when finish_reason is "error" or "deadline".
    """

    request_id: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    num_cached_tokens: int = 0
    stats: RequestStats | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionDelta:
    """What one completion of a request has gained since its previous delta; the frontend streams these.

    Attributes:
        index: number of the completion in the call: sample j of prompt i is i * n + j.
        text: new text, whole characters only, without stop strings.
        token_ids: new tokens (stop tokens included).
        logprobs: one entry per new token when asked for.
        prompt_logprobs: those of the prompt when asked for, once, of the first completion of each prompt.
        finish_reason: set on the last delta of the completion.
        stop_reason: the stop string or stop token id that ended it, None for end-of-sequence.
        num_cached_tokens: prompt tokens taken from the prefix cache.
        stats: set on the last delta.
        error: why it failed, when finish_reason is "error" or "deadline".
    """

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[PromptLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    num_cached_tokens: int = 0
    stats: RequestStats | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """A completion changed its state in the scheduler: it was parked, resumed or moved.

    Attributes:
        index: number of the completion in the call, as in `CompletionDelta`.
        facts: as from `AsyncEngine.explain`.
    """

    index: int
    facts: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOutput:
    """One whole completion of a prompt."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    stats: RequestStats | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """A prompt and its n completions, as returned by `LLM.generate`.

    `prompt_logprobs`: one entry per prompt token when asked for; None for the first.
    """

    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """Facts about a started engine, fixed while it runs. Sizes are in bytes unless the name says otherwise.

    `kernel_fallback` says why the best attention kernels are not used although they were wanted; empty when they are used.
    """

    model: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    dtype: str
    device: str
    block_size: int
    num_device_blocks: int
    num_host_blocks: int
    block_bytes: int
    scheduling_policy: str
    max_num_seqs: int
    attention_backend: str = "native"
    kernel_fallback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """State and counters of the engine at one moment; counters start at 0 with the engine.

    Attributes:
        num_running: requests in the batch.
        num_waiting: requests that hold no KV and are not in the batch.
        num_parked_device: requests not in the batch with their KV on the device.
        num_parked_host: requests whose KV is on the host, or on its way there or back.
        level_requests: unfinished requests per scheduling level.
        device_usage: share of device KV blocks in use, 0..1; host_usage likewise.
        preemptions: how often an unfinished request left the batch.
        uploads_hit: uploads that were complete when the request was next scheduled; uploads_late: uploads that the request
            waited for; uploads_wasted: uploads that were undone before use.
        iterations, iteration_tokens: forward passes and their input tokens.
        schedule_s: time in schedule + commit, seconds, summed over iterations.
        execute_s: time in the model, seconds, summed.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_parked_device: int = 0
    num_parked_host: int = 0
    level_requests: tuple[int, ...] = ()
    device_usage: float = 0.0
    host_usage: float = 0.0
    preemptions: int = 0
    promotions: int = 0
    demotions: int = 0
    recomputed_tokens: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    offload_bytes: int = 0
    upload_bytes: int = 0
    uploads_hit: int = 0
    uploads_late: int = 0
    uploads_wasted: int = 0
    thrash_governor_trips: int = 0
    iterations: int = 0
    iteration_tokens: int = 0
    schedule_s: float = 0.0
    execute_s: float = 0.0
