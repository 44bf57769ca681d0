"""StepPlan -> the inputs of a forward pass and of the sampler. O(batch); no per-token Python."""

from dataclasses import dataclass

import numpy as np
import torch

from fastserve._C.sched import StepPlan
from fastserve.layers.context import ForwardContext
from fastserve.ops.attention import AttentionBackend, AttentionBatch
from fastserve.ops.sampling import SamplingBatch


@dataclass(frozen=True, slots=True)
class Batch:
    """token_ids int32[T]; context for the decoder; sampling for its S wanted rows."""

    token_ids: torch.Tensor
    context: ForwardContext
    sampling: SamplingBatch


def build_batch(
    plan: StepPlan,
    previous_sampled: np.ndarray,
    kv_cache: torch.Tensor,
    backend: AttentionBackend = AttentionBackend.NATIVE,
) -> Batch:
    """Fill in the tokens that the previous step sampled and view the plan as kernel inputs.

    Args:
        plan: a plan with at least one row.
        previous_sampled: int32, the sampled tokens of the plan executed just before, which `plan.token_sources` index.
        kv_cache: [num_blocks, layers, 2, kv_heads, block_size, head_dim].
        backend: who computes attention.
    """
    token_ids = np.array(plan.token_ids)
    history = np.array(plan.history_tokens)
    linked = np.flatnonzero(plan.token_sources >= 0)
    if linked.size:
        # A failed sample (-1) has ended its request: its row runs on any valid token and is ignored at commit.
        tokens = np.maximum(previous_sampled[plan.token_sources[linked]], 0)
        token_ids[plan.query_start[linked]] = tokens
        if history.size:
            _fill_history(history, plan, linked, tokens)
    query_start = plan.query_start
    context = ForwardContext(
        positions=torch.from_numpy(np.array(plan.positions)),
        slots=torch.from_numpy(np.array(plan.slots)),
        attention=AttentionBatch(
            query_start=query_start,
            seq_lens=plan.seq_lens,
            block_start=plan.block_start,
            # torch takes no read-only arrays
            block_ids=plan.block_ids.copy() if backend is AttentionBackend.TORCH else plan.block_ids,
            num_decode_rows=plan.num_decode_rows,
            backend=backend,
        ),
        kv_cache=kv_cache,
        logit_rows=torch.from_numpy(query_start[1:][plan.sample_rows].astype(np.int64) - 1),
    )
    return Batch(torch.from_numpy(token_ids), context, _sampling(plan, history))


def _fill_history(history: np.ndarray, plan: StepPlan, linked: np.ndarray, tokens: np.ndarray) -> None:
    token_of_row = np.full(plan.num_rows, -1, np.int32)
    token_of_row[linked] = tokens
    ends = plan.history_start[1:]
    entries = np.flatnonzero((ends > plan.history_start[:-1]) & (token_of_row[plan.sample_rows] >= 0))
    history[ends[entries] - 1] = token_of_row[plan.sample_rows[entries]]


def _sampling(plan: StepPlan, history: np.ndarray) -> SamplingBatch:
    return SamplingBatch(
        temperature=plan.temperature,
        top_k=plan.top_k,
        top_p=plan.top_p,
        min_p=plan.min_p,
        repetition_penalty=plan.repetition_penalty,
        presence_penalty=plan.presence_penalty,
        frequency_penalty=plan.frequency_penalty,
        seeds=plan.seeds.view(np.int64),
        counters=plan.counters,
        history_start=plan.history_start,
        history_tokens=history,
        history_prompt_len=plan.history_prompt_len,
        banned_start=plan.banned_start,
        banned_tokens=plan.banned_tokens,
    )
