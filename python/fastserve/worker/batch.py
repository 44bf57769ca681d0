"""StepPlan -> the inputs of a forward pass. O(batch); no per-token Python."""

from dataclasses import dataclass

import numpy as np
import torch

from fastserve._C.sched import StepPlan
from fastserve.layers.context import ForwardContext
from fastserve.ops.attention import AttentionBackend, AttentionBatch


@dataclass(frozen=True, slots=True)
class Batch:
    """token_ids int32[T]; context for the decoder."""

    token_ids: torch.Tensor
    context: ForwardContext


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
    linked = np.flatnonzero(plan.token_sources >= 0)
    if linked.size:
        # A failed sample (-1) has ended its request: its row runs on any valid token and is ignored at commit.
        token_ids[plan.query_start[linked]] = np.maximum(previous_sampled[plan.token_sources[linked]], 0)
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
    return Batch(torch.from_numpy(token_ids), context)
