"""Token ids of a simulated run: prompts, sampled tokens, and the token that ends a request."""

from typing import Protocol

import numpy as np

from fastserve._C.sched import StepPlan
from fastserve.workload import Workload


class TokenSource(Protocol):
    """Prompts for the scheduler and samples for the executor.

    Attributes:
        stop_token: ends a request when it is sampled; None = requests end at their max_tokens.
    """

    stop_token: int | None

    def prompt(self, i: int) -> np.ndarray:
        """The prompt of request i, int32[prompt_tokens[i]]."""
        ...

    def sample(self, plan: StepPlan) -> np.ndarray:
        """A token for every sampling entry, int32[num_samples]."""
        ...


def token_source(workload: Workload, vocab_size: int, *, real_prompts: bool, end_by_token: bool) -> TokenSource:
    """The cheapest source that will do.

    Args:
        real_prompts: prompts and outputs of the workload, for a prefix cache to find; else every token is 0.
        end_by_token: end requests with a stop token after their output_tokens.
    """
    if not real_prompts and not end_by_token:
        return _Blank(workload)
    return _Real(workload, vocab_size, end_by_token) if real_prompts else _BlankWithEnds(workload, vocab_size)


class _Blank:
    """All zeros, out of one buffer."""

    stop_token: int | None = None

    def __init__(self, workload: Workload) -> None:
        self._prompt_tokens = workload.prompt_tokens.tolist()
        self._zeros = np.zeros(max(self._prompt_tokens, default=0), np.int32)

    def prompt(self, i: int) -> np.ndarray:
        return self._zeros[: self._prompt_tokens[i]]

    def sample(self, plan: StepPlan) -> np.ndarray:
        if len(self._zeros) < plan.num_samples:
            self._zeros = np.zeros(plan.num_samples, np.int32)
        return self._zeros[: plan.num_samples]


class _BlankWithEnds(_Blank):
    """All zeros, then the stop token."""

    def __init__(self, workload: Workload, vocab_size: int) -> None:
        super().__init__(workload)
        self._end = vocab_size  # no token of any prompt
        self.stop_token = self._end
        self._last_position = workload.prompt_tokens.astype(np.int64) + workload.output_tokens - 1

    def sample(self, plan: StepPlan) -> np.ndarray:
        ids, positions = plan.request_ids[plan.sample_rows], plan.seq_lens[plan.sample_rows]
        return np.where(positions == self._last_position[ids], np.int32(self._end), np.int32(0))


class _Real:
    """Prompts and outputs of the workload. Outputs are made when their request arrives."""

    def __init__(self, workload: Workload, vocab_size: int, end_by_token: bool) -> None:
        self._workload = workload
        self._vocab_size = vocab_size
        self.stop_token: int | None = vocab_size if end_by_token else None
        lengths = workload.output_tokens.astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        self._starts = starts.tolist()
        self._outputs = np.zeros(int(lengths.sum()), np.int32)
        self._first_of_position = starts - workload.prompt_tokens  # index of an output = this + its position

    def prompt(self, i: int) -> np.ndarray:
        output = self._workload.output_ids(i, self._vocab_size)
        if self.stop_token is not None:
            output[-1] = self.stop_token
        self._outputs[self._starts[i] : self._starts[i] + len(output)] = output
        return self._workload.prompt_ids(i, self._vocab_size)

    def sample(self, plan: StepPlan) -> np.ndarray:
        ids, positions = plan.request_ids[plan.sample_rows], plan.seq_lens[plan.sample_rows]
        # A row planned before the end of its request was known lies after its last output; what it samples is not used.
        indices: np.ndarray = self._first_of_position[ids] + positions
        sampled: np.ndarray = self._outputs.take(indices, mode="clip")
        return sampled
