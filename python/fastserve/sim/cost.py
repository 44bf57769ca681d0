"""The protocol of a cost model: seconds of an iteration from its shape."""

from collections.abc import Iterable
from typing import Protocol

from fastserve._C.sched import LatencyModel
from fastserve.engine.profiler import profile_samples

# Of a latency model: base, per prefill token, per prefill pair, per decode, per token of decode context; seconds.
Coefficients = tuple[float, float, float, float, float]


def as_coefficients(values: Iterable[float]) -> Coefficients:
    """The five values of an iterable."""
    base, per_token, per_pair, per_decode, per_context = values
    return base, per_token, per_pair, per_decode, per_context


class CostModel(Protocol):
    """Return the seconds of an iteration; the same shape always takes the same time."""

    def iteration_s(self, prefill_tokens: float, prefill_pairs: float, num_decodes: float, decode_ctx: float) -> float:
        """Seconds of an iteration, above 0.

        Args:
            prefill_tokens: tokens of all prefill chunks.
            prefill_pairs: (query, key) pairs of their causal attention.
            num_decodes: rows with one token.
            decode_ctx: tokens of KV these read, summed.
        """
        ...


def fitted_latency_model(
    cost: CostModel, *, max_model_len: int, max_tokens: int, max_num_seqs: int, num_blocks: int, block_size: int
) -> LatencyModel:
    """The latency model that an engine would measure at start on a device with these costs: same grid, same fit."""

    def measure(*, prefill_tokens: int, prefill_ctx: int, num_decodes: int, decode_ctx: int) -> float:
        pairs = prefill_tokens * prefill_ctx + prefill_tokens * (prefill_tokens + 1) / 2
        return cost.iteration_s(prefill_tokens, pairs, num_decodes, num_decodes * decode_ctx)

    model = LatencyModel()
    model.fit(
        profile_samples(
            measure,
            max_model_len=max_model_len,
            max_tokens=max_tokens,
            max_num_seqs=max_num_seqs,
            num_blocks=num_blocks,
            block_size=block_size,
        )
    )
    return model
