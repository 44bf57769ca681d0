"""Self-attention over the paged KV cache."""

from dataclasses import dataclass

import torch

from fastserve.layers.context import ForwardContext
from fastserve.layers.linear import Linear
from fastserve.ops.attention import attention
from fastserve.ops.rope import rope_kv_write


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMS norms of query and key heads, weights [head_dim]."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class HeadBuffers:
    """Query, key, value and output of one forward pass, overwritten by every layer.

    Attributes:
        qkv: [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim], what the fused projection writes.
        query, key, value: its parts as [num_tokens, heads, head_dim].
        heads: [num_tokens, num_heads, head_dim], what attention writes; `flat` is the same as one row per token.
    """

    qkv: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    heads: torch.Tensor
    flat: torch.Tensor


class SelfAttention:
    """Fused query/key/value projection, rotary embedding, KV write and attention; the output projection follows apart.

    Args:
        qkv: hidden_size -> query, key and value heads.
        layer: of the KV cache.
        rope_table: float32 [max_position, rotary_dim]; None = no rotary embedding.
        norms: of query and key heads, None = none.
    """

    def __init__(
        self,
        qkv: Linear,
        *,
        layer: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        rope_table: torch.Tensor | None,
        norms: HeadNorms | None,
    ) -> None:
        self._qkv = qkv
        self._layer = layer
        self._num_heads = num_heads
        self._num_kv_heads = num_kv_heads
        self._head_dim = head_dim
        self._scale = head_dim**-0.5
        self._rope_table = rope_table
        self._query_norm = norms.query if norms is not None else None
        self._key_norm = norms.key if norms is not None else None
        self._norm_eps = norms.eps if norms is not None else 0.0

    def buffers(self, num_tokens: int, like: torch.Tensor) -> HeadBuffers:
        """Allocate for a forward pass; layers of the same shape share them."""
        num_kv_heads = self._num_kv_heads
        qkv = like.new_empty((num_tokens, self._num_heads + 2 * num_kv_heads, self._head_dim))
        query, key, value = torch.split(qkv, [self._num_heads, num_kv_heads, num_kv_heads], dim=1)
        heads = like.new_empty((num_tokens, self._num_heads, self._head_dim))
        return HeadBuffers(qkv.flatten(1), query, key, value, heads, heads.flatten(1))

    def __call__(self, x: torch.Tensor, ctx: ForwardContext, buffers: HeadBuffers) -> torch.Tensor:
        """Attend from x [num_tokens, hidden_size]; returns `buffers.flat` [num_tokens, num_heads * head_dim]."""
        self._qkv(x, out=buffers.qkv)
        rope_kv_write(
            buffers.query,
            buffers.key,
            buffers.value,
            ctx.positions,
            self._rope_table,
            ctx.kv_cache,
            ctx.slots,
            layer=self._layer,
            q_norm=self._query_norm,
            k_norm=self._key_norm,
            norm_eps=self._norm_eps,
        )
        attention(buffers.query, ctx.kv_cache, ctx.attention, layer=self._layer, scale=self._scale, out=buffers.heads)
        return buffers.flat
