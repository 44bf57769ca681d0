"""ops.rope_kv_write against the same in torch: rotate q and k, scatter k and v into the cache."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from bench.kernels.case import FASTSERVE, Case
from fastserve import ops

BLOCK_SIZE, NUM_LAYERS = 16, 12
MAX_POSITION = 2048


@dataclass(frozen=True, slots=True)
class Heads:
    """Shape of a model's attention."""

    num_q_heads: int
    num_kv_heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"heads={self.num_q_heads}+2x{self.num_kv_heads} D={self.head_dim}"


def cases(*, quick: bool) -> Iterator[Case]:
    heads = Heads(12, 4, 64)
    for num_tokens in [1, 16] if quick else [1, 16, 512]:
        yield Case("rope_kv_write", f"T={num_tokens} {heads} fp32", _case(num_tokens, heads, torch.float32))


def gpu_cases(*, quick: bool) -> Iterator[Case]:
    heads = Heads(32, 8, 128)
    for num_tokens in [1, 2048] if quick else [1, 64, 2048, 8192]:
        # Query, key and value in and out, and a row of cosines and sines.
        moved = num_tokens * heads.head_dim * (2 * (heads.num_q_heads + 2 * heads.num_kv_heads) * 2 + 4)
        contenders = _case(num_tokens, heads, torch.bfloat16)
        yield Case("rope_kv_write", f"T={num_tokens} {heads} bf16", contenders, bytes_moved=moved)


def _case(num_tokens: int, heads: Heads, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    kv_heads, head_dim = heads.num_kv_heads, heads.head_dim
    qkv = torch.randn(num_tokens, heads.num_q_heads + 2 * kv_heads, head_dim).to(dtype)
    q, k, v = qkv.split([heads.num_q_heads, kv_heads, kv_heads], dim=1)
    num_blocks = num_tokens // BLOCK_SIZE + 2
    kv_cache = torch.zeros(num_blocks, NUM_LAYERS, 2, kv_heads, BLOCK_SIZE, head_dim, dtype=dtype)
    slots = torch.randperm(num_blocks * BLOCK_SIZE)[:num_tokens]
    blocks, rows = slots // BLOCK_SIZE, slots % BLOCK_SIZE
    positions = torch.randint(0, MAX_POSITION, (num_tokens,), dtype=torch.int32)
    angles = torch.arange(MAX_POSITION)[:, None] * 10000.0 ** (-torch.arange(head_dim // 2) / (head_dim // 2))
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1)

    def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(dtype)

    def in_torch() -> None:
        cos, sin = cos_sin[positions][:, None].chunk(2, dim=-1)
        q.copy_(rotate(q, cos, sin))
        kv_cache[blocks, 0, 0, :, rows] = rotate(k, cos, sin)
        kv_cache[blocks, 0, 1, :, rows] = v

    return {
        FASTSERVE: lambda: ops.rope_kv_write(q, k, v, positions, cos_sin, kv_cache, slots, layer=0),
        "torch": in_torch,
    }
