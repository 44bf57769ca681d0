"""Token counts of one HTTP request and where its time went: the `usage` object."""

from fastserve.types import CompletionDelta, RequestStats


class UsageTally:
    """Adds up the deltas of all choices."""

    __slots__ = ("_cached_by_prompt", "_num_samples", "_stats", "completion_tokens", "prompt_tokens")

    def __init__(self, prompt_tokens: int, samples_per_prompt: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self._num_samples = samples_per_prompt
        self._cached_by_prompt: dict[int, int] = {}
        self._stats: list[RequestStats] = []

    def add(self, delta: CompletionDelta) -> None:
        """Count one delta."""
        self.completion_tokens += len(delta.token_ids)
        if delta.token_ids:
            # The choices of a prompt share it: count the first one's hits, as prompt_tokens counts the prompt once.
            self._cached_by_prompt.setdefault(delta.index // self._num_samples, delta.num_cached_tokens)
        if delta.stats is not None:
            self._stats.append(delta.stats)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens taken from the prefix cache."""
        return sum(self._cached_by_prompt.values())

    def cached_tokens_of(self, prompt: int) -> int:
        """Those of one prompt, by its place in the request."""
        return self._cached_by_prompt.get(prompt, 0)

    def as_json(self) -> dict[str, object]:
        """OpenAI's usage object with our part; times in seconds, summed over the choices that ended."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "fastserve": {
                "preemptions": sum(s.preemptions for s in self._stats),
                "parked_s": round(sum(s.parked_s for s in self._stats), 6),
                "host_s": round(sum(s.host_s for s in self._stats), 6),
                "upload_wait_s": round(sum(s.upload_wait_s for s in self._stats), 6),
                "recomputed_tokens": sum(s.recomputed_tokens for s in self._stats),
                "queue_s": round(sum(s.queue_s for s in self._stats), 6),
            },
        }
