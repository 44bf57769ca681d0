"""An engine without a model: scripted tokens, delays and failures; records what the server asked of it."""

import asyncio
import threading
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastserve.errors import EngineDeadError, OverloadedError
from fastserve.logprobs import PromptLogprobs, TokenLogprobs
from fastserve.tokenizer import ChatTemplates
from fastserve.tokenizer.token_bytes import DecodeRule
from fastserve.types import (
    CompletionDelta,
    EngineInfo,
    EngineStats,
    FinishReason,
    RequestEvent,
    RequestStats,
    SamplingDefaults,
    SamplingParams,
    SchedulingParams,
)

BOS = 256
EOS = 257
VOCAB_SIZE = 300
INFO = EngineInfo(
    model="fake/model",
    max_model_len=512,
    vocab_size=VOCAB_SIZE,
    eos_token_ids=(EOS,),
    dtype="float32",
    device="cpu",
    block_size=16,
    num_device_blocks=64,
    num_host_blocks=64,
    block_bytes=1024,
    scheduling_policy="skip-join-mlfq",
    max_num_seqs=8,
)
STATS = RequestStats(preemptions=2, parked_s=0.5, host_s=0.25, upload_wait_s=0.125, recomputed_tokens=7, queue_s=0.0625)
# "refuse", "forever" and "huge" make it misbehave.
CHAT_TEMPLATE = """
{%- set first = messages[0].content -%}
{%- if first == "refuse" %}{{ raise_exception("roles must alternate") }}{% endif -%}
{%- if first == "forever" %}{% for _ in range(100000) %}{% for _ in range(100000) %}{% endfor %}{% endfor %}{% endif -%}
{%- if first == "huge" %}{{ "a" * 10**10 }}{% endif -%}
{%- for m in messages -%}
{{ m.role }}{{ "/" ~ m.name if m.name }}: {{ m.content ~ "\n" }}
{%- endfor -%}
{{ "assistant: " if add_generation_prompt }}"""


class FakeTokenizer:
    """One token per UTF-8 byte."""

    vocab_size = VOCAB_SIZE
    max_chars_per_token = 1
    decode_rule = DecodeRule(byte_level=False)
    special_ids = frozenset(range(256, VOCAB_SIZE))
    chat_templates = ChatTemplates({"default": CHAT_TEMPLATE}, {})

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        if text.startswith("stuck"):
            print("stuck", flush=True)
            threading.Event().wait()
        return [BOS] * add_special_tokens + list(text.encode())

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return b"".join(self.decode_token_bytes(i) for i in ids if i < 256 or not skip_special_tokens).decode(
            errors="replace"
        )

    def id_to_token(self, token_id: int) -> str:
        return self.decode_token_bytes(token_id).decode(errors="replace")

    def decode_token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b"<%d>" % token_id


@dataclass
class Script:
    """What every request of the engine gets.

    Attributes:
        pieces: text of each token; the last delta is separate and says why it ended.
        finish: reason once the pieces are used up (length when max_tokens comes first).
        delay_s: before each token; 0 = as fast as the loop turns.
        fail_after: raise `failure` before this token.
        gate: when set, tokens after the first wait for it.
    """

    pieces: tuple[str, ...] = ("Hello", ",", " wörld")
    finish: FinishReason = FinishReason.STOP
    stop_reason: int | str | None = None
    delay_s: float = 0.0
    fail_after: int | None = None
    failure: Exception | None = None
    error: str | None = None
    gate: asyncio.Event | None = None
    endless: bool = False


@dataclass
class Call:
    """Arguments of one `generate`."""

    prompts: list[list[int]]
    sampling: SamplingParams
    scheduling: SchedulingParams
    request_id: str

    @property
    def prompt_token_ids(self) -> list[int]:
        """The only prompt."""
        (prompt,) = self.prompts
        return prompt


def _scores(prompt: list[int], sampling: SamplingParams) -> tuple[PromptLogprobs, ...]:
    """Token i of a prompt has log-probability -i and rank i + 1; the likeliest are a, b, ..., in parts of two tokens."""
    k = sampling.prompt_logprobs
    return tuple(
        PromptLogprobs(
            first=first,
            num_top=k,
            token_logprobs=array("f", [-i for i in places]).tobytes(),
            ranks=array("i", [i + 1 for i in places]).tobytes(),
            top_ids=array("i", [*range(97, 97 + k)] * len(places)).tobytes(),
            top_logprobs=array("f", [-0.5 - i for i in range(k)] * len(places)).tobytes(),
        )
        for first in range(1, len(prompt), 2)
        for places in [range(first, min(first + 2, len(prompt)))]
    )


@dataclass
class FakeEngine:
    """See the module."""

    script: Script = field(default_factory=Script)
    info: EngineInfo = INFO
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    sampling_defaults: SamplingDefaults = SamplingDefaults()
    engine_stats: EngineStats = field(default_factory=EngineStats)
    calls: list[Call] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    explanations: dict[str, dict] = field(default_factory=dict)
    heartbeat_s: float = 0.0
    is_alive: bool = True
    death: str | None = None
    silent: bool = False
    overloaded: bool = False
    closed: bool = False
    stuck: bool = False

    def generate(
        self, prompts, sampling, scheduling=None, *, request_id, watch=False
    ) -> AsyncIterator[CompletionDelta | RequestEvent]:
        self.calls.append(Call(prompts, sampling, scheduling, request_id))
        if self.overloaded:
            raise OverloadedError("the queue is full")
        return self._generate(prompts, sampling, request_id, watch)

    async def _generate(self, prompts, sampling, request_id, watch) -> AsyncIterator[CompletionDelta | RequestEvent]:
        self.running.add(request_id)
        done = False
        try:
            async for delta in self._run(prompts, sampling):
                yield delta
                if watch and delta.token_ids:
                    yield RequestEvent(delta.index, {"state": "parked", "level": 1})
            done = True
        finally:
            self.running.discard(request_id)
            if not done:
                self.aborted.append(request_id)

    async def _run(self, prompts, sampling: SamplingParams) -> AsyncIterator[CompletionDelta]:
        script = self.script
        limits = [self._num_tokens(prompt, sampling) for prompt in prompts for _ in range(sampling.n)]
        for i in range(max(limits)):
            if script.fail_after == i:
                raise script.failure
            await asyncio.sleep(script.delay_s)
            if i and script.gate is not None:
                await script.gate.wait()
            if not self.is_alive:
                raise EngineDeadError(self.death or "the engine died")
            for index, limit in enumerate(limits):
                if i < limit:
                    yield self._token(index, script.pieces[i % len(script.pieces)], sampling)
        for index, limit in enumerate(limits):
            prompt = prompts[index // sampling.n]
            scores = (
                _scores(prompt, sampling) if sampling.prompt_logprobs is not None and not index % sampling.n else ()
            )
            cut = script.endless or limit < len(script.pieces)
            yield CompletionDelta(
                index=index,
                prompt_logprobs=scores,
                finish_reason=FinishReason.LENGTH if cut else script.finish,
                stop_reason=None if cut else script.stop_reason,
                stats=STATS,
                error=script.error,
            )

    def _num_tokens(self, prompt: list[int], sampling: SamplingParams) -> int:
        room = self.info.max_model_len - len(prompt)
        limit = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        return limit if self.script.endless else min(limit, len(self.script.pieces))

    def _token(self, index: int, text: str, sampling: SamplingParams) -> CompletionDelta:
        token_id = (text or "?").encode()[0]
        logprobs = ()
        if sampling.logprobs is not None:
            top = tuple(range(97, 97 + sampling.logprobs))
            logprobs = (TokenLogprobs(-0.5, 1, top, tuple(-0.5 - i for i in range(len(top)))),)
        return CompletionDelta(index=index, text=text, token_ids=(token_id,), logprobs=logprobs, num_cached_tokens=4)

    async def abort(self, request_id: str) -> bool:
        return request_id in self.running

    async def stats(self) -> EngineStats:
        if self.silent:
            await asyncio.Event().wait()
        return self.engine_stats

    async def explain(self, request_id: str) -> dict | None:
        if self.silent:
            await asyncio.Event().wait()
        return self.explanations.get(request_id)

    def heartbeat_age_s(self) -> float:
        return self.heartbeat_s

    async def drain(self) -> None:
        while self.running:
            await asyncio.sleep(0.01)

    async def close(self, *, grace_s: float) -> None:
        self.closed = True
        if self.stuck:
            threading.Event().wait()
