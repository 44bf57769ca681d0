"""Random paged KV caches for the attention tests, and attention over them in float64."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fastserve.ops import AttentionBatch

NUM_LAYERS = 2
LAYER = 1


@dataclass(frozen=True, slots=True)
class Paged:
    """Keys and values of a few rows `[num_kv_heads, seq_len, head_dim]` each, and the same in a paged cache."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    cache: torch.Tensor
    block_start: np.ndarray
    block_ids: np.ndarray


def page(keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor], *, block_size: int) -> Paged:
    """Scatter rows over a cache in random order. What no token fills is NaN: other layers, spare blocks, tails."""
    num_kv_heads, _, head_dim = keys[0].shape
    num_blocks = [-(-row.shape[1] // block_size) for row in keys]
    block_start = np.concatenate([[0], np.cumsum(num_blocks)]).astype(np.int32)
    total = int(block_start[-1])
    shape = (total + 3, NUM_LAYERS, 2, num_kv_heads, block_size, head_dim)
    cache = torch.full(shape, float("nan"), dtype=keys[0].dtype)
    block_ids = torch.randperm(total + 3)[:total].to(torch.int32).numpy()
    for row, tensors in enumerate(zip(keys, values, strict=True)):
        for kind, tensor in enumerate(tensors):
            for i, block in enumerate(block_ids[block_start[row] : block_start[row + 1]]):
                piece = tensor[:, i * block_size : (i + 1) * block_size]
                cache[int(block), LAYER, kind, :, : piece.shape[1]] = piece
    return Paged(list(keys), list(values), cache, block_start, block_ids)


def random_rows(
    seq_lens: Sequence[int], *, num_kv_heads: int, head_dim: int, block_size: int, dtype: torch.dtype = torch.float32
) -> Paged:
    """A cache of standard normal keys and values."""
    keys, values = [[torch.randn(num_kv_heads, n, head_dim).to(dtype) for n in seq_lens] for _ in range(2)]
    return page(keys, values, block_size=block_size)


def batch_of(paged: Paged, num_queries: Sequence[int], *, num_decode_rows: int = 0) -> AttentionBatch:
    """The step in which each row has its last `num_queries` tokens."""
    query_start = np.concatenate([[0], np.cumsum(num_queries)]).astype(np.int32)
    seq_lens = np.array([k.shape[1] for k in paged.keys], dtype=np.int32)
    return AttentionBatch(query_start, seq_lens, paged.block_start, paged.block_ids, num_decode_rows)


def attend_float64(q: torch.Tensor, paged: Paged, num_queries: Sequence[int], *, scale: float) -> torch.Tensor:
    """Causal attention of q `[num_tokens, num_q_heads, head_dim]`, row by row, in float64."""
    rows = []
    for queries, k, v in zip(q.double().split(list(num_queries)), paged.keys, paged.values, strict=True):
        group = q.shape[1] // k.shape[0]
        keys, values = (x.double().repeat_interleave(group, dim=0) for x in (k, v))
        scores = queries.transpose(0, 1) @ keys.transpose(1, 2) * scale
        num, length = scores.shape[1:]
        hidden = torch.arange(length) > length - num + torch.arange(num)[:, None]
        rows.append((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values).transpose(0, 1))
    return torch.cat(rows)
