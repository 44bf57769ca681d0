"""Attention over the paged KV cache."""

from dataclasses import dataclass

import numpy as np
import torch

from fastserve._C import kernels

IndexArray = np.ndarray | torch.Tensor
"""One-dimensional int32 array on the CPU."""


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Which tokens of a step belong to which request, and where its KV lies. A row is a request.

    Attributes:
        query_start: int32 `[num_rows + 1]`; row r has the tokens `query_start[r]` up to `query_start[r + 1]`.
        seq_lens: int32 `[num_rows]`; KV tokens of the row, those of this step included.
        block_start: int32 `[num_rows + 1]`; row r has the blocks `block_ids[block_start[r]:block_start[r + 1]]`.
        block_ids: int32; indices into dimension 0 of the KV cache, in the order of the tokens.
        num_decode_rows: the first so many rows have exactly one token.
    """

    query_start: IndexArray
    seq_lens: IndexArray
    block_start: IndexArray
    block_ids: IndexArray
    num_decode_rows: int

    @property
    def num_rows(self) -> int:
        """Requests in the step."""
        return len(self.seq_lens)


def attention(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    batch: AttentionBatch,
    *,
    layer: int,
    scale: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend every query token to the KV of its own request, causally; fp32 inside.

    Token i of the n tokens of a row sees the KV positions up to `seq_len - n + i`, so the keys and values of this step
    must be in the cache already. An output row is the same bit for bit whatever else is in the batch, however the
    prompt was cut into chunks and wherever the blocks lie.

    Args:
        q: float32, bfloat16 or float16 `[num_tokens, num_q_heads, head_dim]`; a strided view of a fused qkv row will do.
        kv_cache: `[num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim]`, contiguous, dtype of q; block_size
            8, 16 or 32, head_dim a multiple of 8 in 32..256, num_q_heads a multiple of num_kv_heads.
        batch: rows, lengths and blocks.
        layer: which layer of the cache, from 0.
        scale: factor on the scores, usually `head_dim ** -0.5`.
        out: where to write, shape and dtype of q; a new tensor by default.
    Returns:
        `[num_tokens, num_q_heads, head_dim]`; tokens outside every row are left as they are.
    Raises:
        InvalidArgumentError: a shape, dtype, length or block id does not fit.
    """
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype)
    num_rows = batch.num_rows
    arrays = (batch.query_start, batch.seq_lens, batch.block_start, batch.block_ids)
    split = batch.num_decode_rows
    if split:
        kernels.attention_decode(q, kv_cache, *arrays, out, row_begin=0, row_end=split, layer=layer, scale=scale)
    if split < num_rows:
        kernels.attention_prefill(
            q, kv_cache, *arrays, out, row_begin=split, row_end=num_rows, layer=layer, scale=scale
        )
    return out
