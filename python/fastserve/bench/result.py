"""The outcome of one request of a load."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestResult:
    """One request; times in seconds after the start of the run.

    Attributes:
        index: row of the workload.
        due_s: when it should have been sent.
        start_s: from when latencies count: `due_s`, or later when the concurrency limit or a former turn held it back.
        sent_s: when it was sent.
        finished_s: when its reply had ended.
        token_s: float64[n], when each piece of the reply came.
        prompt_tokens, output_tokens: as the server counted them, else as asked for and as pieces came.
        error: kind of failure; empty = completed.
        detail: the server's or the system's words on it.
        engine: our server's own account (`usage.fastserve`), empty elsewhere.
    """

    index: int
    due_s: float
    start_s: float
    sent_s: float
    finished_s: float
    token_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str = ""
    detail: str = ""
    engine: Mapping[str, float] = field(default_factory=dict)

    @property
    def ttft_s(self) -> float:
        """Time to the first token."""
        return float(self.token_s[0]) - self.start_s

    @property
    def e2el_s(self) -> float:
        """End-to-end latency: to the last piece of the reply, not to the end of its stream."""
        return float(self.token_s[-1]) - self.start_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for a single token."""
        return (self.e2el_s - self.ttft_s) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def normalized_s(self) -> float:
        """End-to-end latency per output token."""
        return self.e2el_s / self.output_tokens

    @property
    def pause_s(self) -> float | None:
        """Longest time between two pieces of the reply; None for a single piece."""
        return float(self.itls_s.max()) if len(self.token_s) > 1 else None

    @property
    def itls_s(self) -> np.ndarray:
        """Times between pieces of the reply."""
        return np.diff(self.token_s)
