"""ops.rope_kv_write against the same in torch: rotate q and k, scatter k and v into the cache."""

from collections.abc import Callable, Iterator

import torch

from bench.kernels.case import FASTSERVE, Case
from fastserve import ops

Q_HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, NUM_LAYERS = 12, 4, 64, 16, 12
MAX_POSITION = 2048


def cases(*, quick: bool) -> Iterator[Case]:
    for num_tokens in [1, 16] if quick else [1, 16, 512]:
        yield Case("rope_kv_write", f"T={num_tokens} heads={Q_HEADS}+2x{KV_HEADS} D={HEAD_DIM} fp32", _case(num_tokens))


def _case(num_tokens: int) -> dict[str, Callable[[], object]]:
    num_heads = Q_HEADS + 2 * KV_HEADS
    qkv = torch.randn(num_tokens, num_heads, HEAD_DIM)
    q, k, v = qkv.split([Q_HEADS, KV_HEADS, KV_HEADS], dim=1)
    num_blocks = num_tokens // BLOCK_SIZE + 2
    kv_cache = torch.zeros(num_blocks, NUM_LAYERS, 2, KV_HEADS, BLOCK_SIZE, HEAD_DIM)
    slots = torch.randperm(num_blocks * BLOCK_SIZE)[:num_tokens]
    blocks, rows = slots // BLOCK_SIZE, slots % BLOCK_SIZE
    positions = torch.randint(0, MAX_POSITION, (num_tokens,), dtype=torch.int32)
    angles = torch.arange(MAX_POSITION)[:, None] * 10000.0 ** (-torch.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1)

    def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def in_torch() -> None:
        cos, sin = cos_sin[positions][:, None].chunk(2, dim=-1)
        q.copy_(rotate(q, cos, sin))
        kv_cache[blocks, 0, 0, :, rows] = rotate(k, cos, sin)
        kv_cache[blocks, 0, 1, :, rows] = v

    return {
        FASTSERVE: lambda: ops.rope_kv_write(q, k, v, positions, cos_sin, kv_cache, slots, layer=0),
        "torch": in_torch,
    }
