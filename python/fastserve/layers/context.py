"""Facts about the batch of one forward pass."""

from dataclasses import dataclass

import torch

from fastserve.ops.attention_batch import AttentionBatch


@dataclass(frozen=True, slots=True)
class ForwardContext:
    """One batch of T tokens, ordered as `attention` says. The worker builds it; layers only read it.

    Attributes:
        positions: int32 [T], position of each token in its sequence.
        slots: int64 [T], where its K and V go: block id * block_size + offset in the block.
        attention: which tokens belong to which sequence and where the KV of the sequence lies.
        kv_cache: [num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim], written by every layer.
        logit_rows: int64 [S], the tokens whose logits are wanted: ascending, none twice; S may be 0.
    """

    positions: torch.Tensor
    slots: torch.Tensor
    attention: AttentionBatch
    kv_cache: torch.Tensor
    logit_rows: torch.Tensor
