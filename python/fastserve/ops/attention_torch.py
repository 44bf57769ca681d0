"""Attention over the paged KV cache with torch's own operators: a reference, and a fallback for any GPU."""

import numpy as np
import torch
from torch.nn import functional

from fastserve.ops.attention_batch import AttentionBatch, IndexArray


def attention_torch(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    batch: AttentionBatch,
    *,
    layer: int,
    scale: float,
    out: torch.Tensor,
    compute_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Gather the pages of each row and call `scaled_dot_product_attention`; arguments as those of `attention`.

    Copies the index arrays to the host, so it waits for the GPU and cannot be captured into a graph. Of a row shorter
    than its query tokens, those before its first position get zeros, as on a GPU.

    Args:
        q: `[num_tokens, num_q_heads, head_dim]`.
        kv_cache: `[num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim]`.
        batch: rows, lengths and blocks.
        layer: which layer of the cache, from 0.
        scale: factor on the scores.
        out: shape and dtype of q.
        compute_dtype: of the arithmetic; that of q by default.
    Returns:
        out.
    """
    query_start = _to_list(batch.query_start)
    block_start = _to_list(batch.block_start)
    block_ids = _to_tensor(batch.block_ids, q.device)
    dtype = compute_dtype or q.dtype
    for row, seq_len in enumerate(_to_list(batch.seq_lens)):
        tokens = slice(query_start[row], query_start[row + 1])
        num_queries = tokens.stop - tokens.start
        num_hidden = min(max(num_queries - seq_len, 0), num_queries)
        out[tokens.start : tokens.start + num_hidden] = 0
        if num_hidden == num_queries:
            continue
        queries = q[tokens.start + num_hidden : tokens.stop].transpose(0, 1).to(dtype)
        keys, values = _gather(kv_cache, layer, block_ids[block_start[row] : block_start[row + 1]], seq_len, dtype)
        visible = None
        if queries.shape[1] > 1:  # aligned at the end: the last query sees everything
            shape = (queries.shape[1], seq_len)
            visible = torch.ones(shape, dtype=torch.bool, device=q.device).tril(seq_len - queries.shape[1])
        result = functional.scaled_dot_product_attention(
            queries[None], keys[None], values[None], attn_mask=visible, scale=scale, enable_gqa=True
        )
        out[tokens.start + num_hidden : tokens.stop] = result[0].transpose(0, 1)
    return out


def _gather(
    kv_cache: torch.Tensor, layer: int, blocks: torch.Tensor, seq_len: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values `[num_kv_heads, seq_len, head_dim]` of a row."""
    block_size = kv_cache.shape[4]
    pages = kv_cache[blocks[: -(-seq_len // block_size)], layer]  # [blocks, 2, num_kv_heads, block_size, head_dim]
    rows = pages.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :seq_len].to(dtype)
    return rows[0], rows[1]


def _to_list(array: IndexArray) -> list[int]:
    numbers: list[int] = (array.cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)).tolist()
    return numbers


def _to_tensor(array: IndexArray, device: torch.device) -> torch.Tensor:
    if isinstance(array, np.ndarray):
        array = torch.from_numpy(np.array(array))  # a copy: torch takes no read-only arrays
    return array.to(device=device, dtype=torch.int64)
