"""What the server asks of an engine; `fastserve.engine.async_engine.AsyncEngine` is the real one."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from fastserve.tokenizer import ChatTemplates
from fastserve.tokenizer.token_bytes import DecodeRule
from fastserve.types import (
    CompletionDelta,
    EngineInfo,
    EngineStats,
    RequestEvent,
    SamplingDefaults,
    SamplingParams,
    SchedulingParams,
)


class TokenizerProtocol(Protocol):
    """Text to ids and back; every method may be called from any thread."""

    @property
    def chat_templates(self) -> ChatTemplates: ...

    @property
    def decode_rule(self) -> DecodeRule | None: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    @property
    def max_chars_per_token(self) -> int | None: ...

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...

    def id_to_token(self, token_id: int) -> str | None: ...

    def decode_token_bytes(self, token_id: int) -> bytes: ...


class EngineProtocol(Protocol):
    """A running engine, used from one event loop."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def tokenizer(self) -> TokenizerProtocol: ...

    @property
    def sampling_defaults(self) -> SamplingDefaults: ...

    @property
    def is_alive(self) -> bool: ...

    @property
    def death(self) -> str | None:
        """Why it is not alive; None while it is."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        scheduling: SchedulingParams | None = None,
        *,
        request_id: str,
        watch: bool = False,
    ) -> AsyncGenerator[CompletionDelta | RequestEvent, None]:
        """Stream the completions of all prompts, interleaved; closing the iterator aborts them.

        Deltas that the caller has not taken yet are merged, so a slow caller holds at most one per completion.
        """
        ...

    async def abort(self, request_id: str) -> bool: ...

    async def stats(self) -> EngineStats: ...

    async def explain(self, request_id: str) -> dict[str, object] | None: ...

    def heartbeat_age_s(self) -> float: ...

    async def drain(self) -> None: ...

    async def close(self, *, grace_s: float) -> None:
        """End it, by force after `grace_s`."""
        ...
