"""Rotary position embedding fused with the write of keys and values into the KV cache."""

import torch

from fastserve._C import kernels
from fastserve.ops.stream import stream_of


def rope_kv_write(  # noqa: PLR0917 (the operands in the order of the data flow)
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor | None,
    kv_cache: torch.Tensor,
    slots: torch.Tensor,
    *,
    layer: int,
    interleaved: bool = False,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    norm_eps: float = 0.0,
) -> None:
    """Normalise and rotate q in place; normalise and rotate k and write it with v into the KV cache.

    k and v themselves stay as they are. All arithmetic is in fp32 and rounded once.

    Args:
        q: `[num_tokens, num_q_heads, head_dim]`; like k and v it may be a view into one fused row per token.
        k: `[num_tokens, num_kv_heads, head_dim]`.
        v: `[num_tokens, num_kv_heads, head_dim]`.
        positions: int32 `[num_tokens]`, rows of `cos_sin`.
        cos_sin: float32 `[max_position, rot_dim]`, cosines in the first half of a row and sines in the second; the first
            rot_dim elements of a head rotate. None: no rotation.
        kv_cache: `[num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim]`, contiguous.
        slots: int64 `[num_tokens]`: `block * block_size + row`, each at most once, or -1 to skip the write.
        layer: which layer of the cache.
        interleaved: elements pair as (2i, 2i + 1) instead of (i, i + rot_dim / 2).
        q_norm: `[head_dim]`, weight of an RMSNorm per head of q before the rotation. None: no norm.
        k_norm: `[head_dim]`, the same for k.
        norm_eps: eps of both norms.
    Raises:
        InvalidArgumentError: shapes, dtypes or layouts do not fit, or a position, a slot or the layer is out of range;
            nothing has been written then. On a GPU positions and slots are not looked at: a token at a position outside
            becomes NaN, one at a slot outside is not written.
    """
    kernels.rope_kv_write(
        q,
        k,
        v,
        positions,
        cos_sin,
        kv_cache,
        slots,
        layer,
        interleaved,
        q_norm,
        k_norm,
        norm_eps,
        stream=stream_of(q),
    )
