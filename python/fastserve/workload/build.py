"""From lengths and arrivals to a workload: choose rows of a trace, give them times, keep conversations together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fastserve.errors import InvalidArgumentError
from fastserve.workload.arrivals import fixed_arrivals, gamma_arrivals, replayed_arrivals, turn_arrivals
from fastserve.workload.ramp import RampUp
from fastserve.workload.trace import Trace
from fastserve.workload.workload import NO_CONVERSATION, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How requests arrive.

    Attributes:
        rate: requests per second; inf = all at once.
        burstiness: shape of the gaps, see `gamma_arrivals`; inf = even gaps.
        think_time_s: mean time between two turns of a conversation.
        ramp_up: a rate that rises from request to request, instead of `rate`.
    """

    rate: float = float("inf")
    burstiness: float = 1.0
    think_time_s: float = 30.0
    ramp_up: RampUp | None = None

    def times(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """float64[count] seconds, not decreasing."""
        if self.ramp_up is None:
            return self._times(self.rate, count, rng)
        gaps_s = np.diff(self._times(1.0, count, rng), prepend=0.0) / self.ramp_up.rates(count)
        return np.cumsum(gaps_s)

    def scaled(self, factor: float) -> "Arrivals":
        """The same with the rate times a factor."""
        return replace(self, rate=factor * self.rate, ramp_up=self.ramp_up and self.ramp_up.scaled(factor))

    def _times(self, rate: float, count: int, rng: np.random.Generator) -> np.ndarray:
        if np.isinf(self.burstiness) and self.burstiness > 0:
            return fixed_arrivals(rate, count)
        return gamma_arrivals(rate, count, rng, burstiness=self.burstiness)


def replay(trace: Trace, *, name: str, seed: int, count: int | None = None, speed: float = 1.0) -> Workload:
    """The requests of a trace at its own times, the first at 0.

    Args:
        trace: with times.
        name: of the workload.
        seed: of the prompts.
        count: most requests to take, from the beginning; None = all.
        speed: factor on the pace.
    Raises:
        InvalidArgumentError: the trace has no times, or its conversations do not share prefixes.
    """
    if trace.arrival_s is None:
        raise InvalidArgumentError("a replay needs a trace with arrival times; give the others a request rate")
    rows = np.arange(len(trace))[:count]
    return _workload(name, seed, replayed_arrivals(trace.arrival_s[rows], speed=speed), trace.take(rows))


def draw_requests(trace: Trace, count: int, arrivals: Arrivals, *, name: str, seed: int) -> Workload:
    """Requests of random rows: every row once before any comes twice; each stands alone."""
    rng = np.random.default_rng(seed)
    trace = trace.take(_shuffled(len(trace), count, rng))
    # A prefix that was shared with a row that is not there means nothing.
    alone = replace(trace, conversation=np.full(count, NO_CONVERSATION))
    return _workload(name, seed, arrivals.times(count, rng), alone)


def draw_conversations(trace: Trace, count: int, arrivals: Arrivals, *, name: str, seed: int) -> Workload:
    """Whole conversations in random order until there are `count` requests; the last may be cut short.

    Conversations start as `arrivals` says, at the rate that makes its rate of requests; later turns follow after think
    times.
    """
    rng = np.random.default_rng(seed)
    rows, conversation, turn = _conversation_rows(trace.conversation, count, rng)
    num_conversations = int(conversation[-1]) + 1
    starts_s = arrivals.scaled(num_conversations / count).times(num_conversations, rng)
    arrival_s = turn_arrivals(starts_s[conversation], turn, rng, think_time_s=arrivals.think_time_s)
    order = np.argsort(arrival_s, kind="stable")
    chosen = trace.take(rows[order])
    return _workload(name, seed, arrival_s[order], replace(chosen, conversation=conversation[order]))


def keep_short(trace: Trace, *, max_prompt_tokens: int | None = None, max_total_tokens: int | None = None) -> Trace:
    """The rows within these limits.

    Raises:
        InvalidArgumentError: none is left.
    """
    most = np.iinfo(np.int64).max
    keep = trace.prompt_tokens <= (most if max_prompt_tokens is None else max_prompt_tokens)
    keep &= trace.prompt_tokens + trace.output_tokens <= (most if max_total_tokens is None else max_total_tokens)
    if not keep.any():
        raise InvalidArgumentError(
            f"no request is left with a prompt of at most {max_prompt_tokens} and at most {max_total_tokens} tokens in"
            f" all; the shortest prompt has {trace.prompt_tokens.min()}"
        )
    return trace.take(np.flatnonzero(keep))


def draw_priorities(shares: Mapping[int, float], count: int, seed: int) -> np.ndarray:
    """A priority for each request, int64[count], drawn with these shares (of their sum)."""
    weights = np.array(list(shares.values()), np.float64)
    if not len(weights) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
        raise InvalidArgumentError(f"shares of priorities must be at least 0 and not all 0, got {dict(shares)}")
    rng = np.random.default_rng((seed, 1))
    return rng.choice(np.array(list(shares), np.int64), count, p=weights / weights.sum())


def _workload(name: str, seed: int, arrival_s: np.ndarray, trace: Trace) -> Workload:
    return Workload(
        name,
        arrival_s,
        trace.prompt_tokens,
        trace.output_tokens,
        trace.priority,
        trace.conversation,
        seed=seed,
        prompts=trace.prompts,
    )


def _shuffled(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    passes = [rng.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(passes)[:count] if passes else np.zeros(0, np.int64)


def _conversation_rows(
    conversation: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose conversations: rows of the trace, a new number for each conversation, and the turn; int64[count]."""
    alone = conversation == NO_CONVERSATION
    key = np.where(alone, conversation.max(initial=0) + 1 + np.arange(len(conversation)), conversation)
    by_key = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[by_key], prepend=-1))
    sizes = np.diff(starts, append=len(key))
    chosen = _shuffled(len(starts), count, rng)  # a conversation has a turn at least, so these are enough
    chosen = chosen[: int(np.searchsorted(np.cumsum(sizes[chosen]), count)) + 1]
    number = np.repeat(np.arange(len(chosen)), sizes[chosen])
    turn = np.arange(len(number)) - np.repeat(np.cumsum(sizes[chosen]) - sizes[chosen], sizes[chosen])
    rows = by_key[starts[chosen][number] + turn]
    return rows[:count], number[:count], turn[:count]
