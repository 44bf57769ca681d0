"""ops.attention: decode against the read bandwidth of the machine, prefill against torch on dense tensors."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from bench.kernels.attention_gpu import attention_gpu_cases
from bench.kernels.case import FASTSERVE, Case
from fastserve import ops

BLOCK_SIZE = 16
BATCH = 16
CACHE_BYTES = 256_000_000  # layers enough that each call finds its own in memory, not in a cache
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Heads:
    """Shape of a model's attention."""

    num_q_heads: int
    num_kv_heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"Hq={self.num_q_heads} Hkv={self.num_kv_heads} D={self.head_dim}"


SMALL = Heads(12, 4, 64)
LARGE = Heads(32, 8, 128)


def gpu_cases(*, quick: bool) -> Iterator[Case]:
    yield from attention_gpu_cases(quick=quick)


def cases(*, quick: bool) -> Iterator[Case]:
    for name, dtype in DTYPES.items():
        for heads in [SMALL] if quick else [SMALL, Heads(12, 12, 64), LARGE]:
            for ctx in [1024] if quick else [256, 1024]:
                yield _decode(heads, ctx, name, dtype)
        for heads in [SMALL] if quick else [SMALL, LARGE]:
            for num_tokens in [512] if quick else [128, 512, 2048]:
                yield _prefill(heads, num_tokens, name, dtype)


def _decode(heads: Heads, ctx: int, dtype_name: str, dtype: torch.dtype) -> Case:
    num_blocks = BATCH * ctx // BLOCK_SIZE
    layer_shape = (2, heads.num_kv_heads, BLOCK_SIZE, heads.head_dim)
    layer_bytes = num_blocks * int(np.prod(layer_shape)) * dtype.itemsize
    num_layers = max(2, -(-CACHE_BYTES // layer_bytes))
    cache = torch.randn(num_blocks, num_layers, *layer_shape, dtype=dtype)
    batch = ops.AttentionBatch(
        query_start=np.arange(BATCH + 1, dtype=np.int32),
        seq_lens=np.full(BATCH, ctx, dtype=np.int32),
        block_start=np.arange(0, num_blocks + 1, ctx // BLOCK_SIZE, dtype=np.int32),
        block_ids=torch.randperm(num_blocks).to(torch.int32).numpy(),
        num_decode_rows=BATCH,
    )
    q = torch.randn(BATCH, heads.num_q_heads, heads.head_dim).to(dtype)
    out = torch.empty_like(q)
    layers = itertools.cycle(range(num_layers))
    scale = heads.head_dim**-0.5
    return Case(
        "decode attn",
        f"B={BATCH} ctx={ctx} {heads} {dtype_name}",
        {FASTSERVE: lambda: ops.attention(q, cache, batch, layer=next(layers), scale=scale, out=out)},
        bytes_moved=layer_bytes,
    )


def _prefill(heads: Heads, num_tokens: int, dtype_name: str, dtype: torch.dtype) -> Case:
    num_blocks = num_tokens // BLOCK_SIZE
    cache = torch.randn(num_blocks, 1, 2, heads.num_kv_heads, BLOCK_SIZE, heads.head_dim).to(dtype)
    batch = ops.AttentionBatch(
        query_start=np.array([0, num_tokens], dtype=np.int32),
        seq_lens=np.array([num_tokens], dtype=np.int32),
        block_start=np.array([0, num_blocks], dtype=np.int32),
        block_ids=torch.randperm(num_blocks).to(torch.int32).numpy(),
        num_decode_rows=0,
    )
    q = torch.randn(num_tokens, heads.num_q_heads, heads.head_dim).to(dtype)
    out = torch.empty_like(q)
    return Case(
        "prefill attn",
        f"T={num_tokens} {heads} {dtype_name}",
        {
            FASTSERVE: lambda: ops.attention(q, cache, batch, layer=0, scale=heads.head_dim**-0.5, out=out),
            "torch": _torch_prefill(heads, num_tokens, dtype),
        },
        flops=2 * num_tokens * (num_tokens + 1) * heads.num_q_heads * heads.head_dim,
    )


def _torch_prefill(heads: Heads, num_tokens: int, dtype: torch.dtype) -> Callable[[], object]:
    """What torch does best: dense keys and values, already in the order it wants."""
    q = torch.randn(1, heads.num_q_heads, num_tokens, heads.head_dim).to(dtype)
    k, v = torch.randn(2, 1, heads.num_kv_heads, num_tokens, heads.head_dim).to(dtype)
    return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
