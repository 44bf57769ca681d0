"""Attention over the paged KV cache."""

from typing import Any

import torch

from fastserve._C import kernels
from fastserve.ops.attention_batch import AttentionBackend, AttentionBatch
from fastserve.ops.attention_torch import attention_torch
from fastserve.ops.stream import stream_of


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
    must be in the cache already. An output row of our kernels is the same bit for bit whatever else is in the batch and
    wherever the blocks lie; on the CPU also however the prompt was cut into chunks (a GPU rounds differently where a row
    is computed as a decode row).

    Args:
        q: float32, bfloat16 or float16 `[num_tokens, num_q_heads, head_dim]`; a strided view of a fused qkv row will do.
        kv_cache: `[num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim]`, contiguous, dtype of q; block_size
            8, 16 or 32, head_dim a multiple of 8 in 32..256, num_q_heads a multiple of num_kv_heads. On a GPU, tensor
            cores are used for 16-bit dtypes, block_size 16 or 32 and head_dim 64, 80, 96, 128 or 256.
        batch: rows, lengths and blocks; on a GPU also workspace and max_seq_len.
        layer: which layer of the cache, from 0.
        scale: factor on the scores, usually `head_dim ** -0.5`.
        out: where to write, shape and dtype of q; a new tensor by default.
    Returns:
        `[num_tokens, num_q_heads, head_dim]`; tokens outside every row are left as they are.
    Raises:
        InvalidArgumentError: a shape or dtype does not fit; on the CPU also: a length or block id does not.
        DeviceError: a launch on the GPU failed.
    """
    if out is None:
        out = q.new_empty(q.shape)
    if batch.backend is AttentionBackend.TORCH:
        return attention_torch(q, kv_cache, batch, layer=layer, scale=scale, out=out)
    num_rows = batch.num_rows
    arrays = (batch.query_start, batch.seq_lens, batch.block_start, batch.block_ids)
    split = batch.num_decode_rows
    common: dict[str, Any] = {
        "layer": layer,
        "scale": scale,
        "max_seq_len": batch.max_seq_len,
        "backend": batch.backend.value,
        "stream": stream_of(q),
    }
    if split:
        kernels.attention_decode(
            q, kv_cache, *arrays, out, row_begin=0, row_end=split, workspace=batch.workspace, **common
        )
    if split < num_rows:
        kernels.attention_prefill(
            q, kv_cache, *arrays, out, row_begin=split, row_end=num_rows, workspace=batch.workspace, **common
        )
    return out


def attention_workspace(
    num_rows: int, num_q_heads: int, head_dim: int, max_seq_len: int, device: torch.device | str
) -> torch.Tensor:
    """Allocate what prefill, and decode of up to `num_rows` rows of up to `max_seq_len` tokens, need on a GPU.

    One workspace serves every step and every smaller shape, one stream at a time.

    Returns:
        uint8, zeros. Kernels leave it ready for the next launch; no other code may write to it.
    Raises:
        InvalidArgumentError: an argument is not positive.
    """
    num_bytes = kernels.attention_workspace_bytes(num_rows, num_q_heads, head_dim, max_seq_len)
    return torch.zeros(num_bytes, dtype=torch.uint8, device=device)
