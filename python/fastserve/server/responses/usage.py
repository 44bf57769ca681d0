"""Token counts of one HTTP request and where its time went: the `usage` object."""

from fastserve.server.parsers.thinking import ThinkingParser
from fastserve.server.protocols import TokenizerProtocol
from fastserve.types import CompletionDelta, RequestStats


class UsageTally:
    """Adds up the deltas of all choices."""

    __slots__ = ("_cached_by_prompt", "_num_samples", "_reasoning", "_stats", "completion_tokens", "prompt_tokens")

    def __init__(self, prompt_tokens: int, samples_per_prompt: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self._num_samples = samples_per_prompt
        self._cached_by_prompt: dict[int, int] = {}
        self._stats: list[RequestStats] = []
        self._reasoning: ReasoningTally | None = None

    def count_reasoning(self, begun: bool | None, tokenizer: TokenizerProtocol) -> None:
        """Tell the tokens of the reasoning as well; `begun`: see `Thinking.begun`."""
        self._reasoning = ReasoningTally(begun, tokenizer)

    def add(self, delta: CompletionDelta) -> None:
        """Count one delta."""
        self.completion_tokens += len(delta.token_ids)
        if delta.token_ids or delta.stats is not None:
            # The choices of a prompt share it: count the first one's hits, as prompt_tokens counts the prompt once.
            self._cached_by_prompt.setdefault(delta.index // self._num_samples, delta.num_cached_tokens)
        if delta.stats is not None:
            self._stats.append(delta.stats)
        if self._reasoning is not None:
            self._reasoning.add(delta)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens taken from the prefix cache."""
        return sum(self._cached_by_prompt.values())

    def cached_tokens_of(self, prompt: int) -> int:
        """Those of one prompt, by its place in the request."""
        return self._cached_by_prompt.get(prompt, 0)

    def as_json(self) -> dict[str, object]:
        """OpenAI's usage object with our part; times in seconds, summed over the choices that ended."""
        reasoning = {} if self._reasoning is None else {"reasoning_tokens": self._reasoning.num_tokens}
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            **({"completion_tokens_details": reasoning} if reasoning else {}),
            "fastserve": {
                "preemptions": sum(s.preemptions for s in self._stats),
                "parked_s": round(sum(s.parked_s for s in self._stats), 6),
                "host_s": round(sum(s.host_s for s in self._stats), 6),
                "upload_wait_s": round(sum(s.upload_wait_s for s in self._stats), 6),
                "recomputed_tokens": sum(s.recomputed_tokens for s in self._stats),
                "queue_s": round(sum(s.queue_s for s in self._stats), 6),
            },
        }


class ReasoningTally:
    """Counts the tokens up to the end of each choice's reasoning, marks included."""

    __slots__ = ("_begun", "_counts", "_parsers", "_tokenizer")

    def __init__(self, begun: bool | None, tokenizer: TokenizerProtocol) -> None:
        self._begun = begun
        self._tokenizer = tokenizer
        self._parsers: dict[int, ThinkingParser] = {}
        self._counts: dict[int, int] = {}

    def add(self, delta: CompletionDelta) -> None:
        """Count one delta."""
        if (parser := self._parsers.get(delta.index)) is None:
            parser = self._parsers[delta.index] = ThinkingParser(self._begun)
        for token_id in delta.token_ids:
            if parser.is_over:
                return
            # Tokens may be parts of characters: every byte counts as one here.
            parser.feed(self._tokenizer.decode_token_bytes(token_id).decode("latin-1"))
            self._counts[delta.index] = self._counts.get(delta.index, 0) + 1

    @property
    def num_tokens(self) -> int:
        """Tokens of the reasoning of all choices."""
        return sum(count for choice, count in self._counts.items() if self._parsers[choice].begun)
