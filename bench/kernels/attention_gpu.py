"""ops.attention on a GPU at the shapes of docs/gpu.md, against torch on dense tensors and FlashInfer where it is installed."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from bench.kernels.case import FASTSERVE, Case
from fastserve import ops
from fastserve._C import kernels

DTYPE = torch.bfloat16
BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows of one kind.

    Attributes:
        heads: query heads, KV heads, head size.
        seq_lens: KV tokens of each row.
        num_queries: query tokens of each row, the last ones of its sequence; 1 = decode.
    """

    heads: tuple[int, int, int]
    seq_lens: Sequence[int]
    num_queries: int

    @property
    def uniform(self) -> bool:
        return len(set(self.seq_lens)) == 1

    def __str__(self) -> str:
        num_q_heads, num_kv_heads, head_dim = self.heads
        lengths = f"{self.seq_lens[0]}" if self.uniform else f"{min(self.seq_lens)}..{max(self.seq_lens)}"
        queries = "" if self.num_queries == 1 else f" q={self.num_queries}"
        return f"B={len(self.seq_lens)} ctx={lengths}{queries} {num_q_heads}/{num_kv_heads} D={head_dim}"


def attention_gpu_cases(*, quick: bool) -> Iterator[Case]:
    """Decode against the read rate of memory, prefill against the rate of large matrix products."""
    gqa, mha = (32, 8, 128), (32, 32, 128)
    decode = [Shape(gqa, [4096] * 32, 1), Shape(gqa, [1024], 1)]
    prefill = [Shape((16, 16, 128), [4096] * 8, 4096), Shape(gqa, [4096] * 2, 512)]
    if not quick:
        decode += [Shape(gqa, [ctx] * rows, 1) for rows, ctx in ((8, 32768), (8, 4096), (8, 1024), (1, 32768))]
        decode += [Shape(mha, [ctx] * 64, 1) for ctx in (128, 512, 1024)]
        decode += [Shape(gqa, _mixed_lengths(), 1), Shape(gqa, [sum(_mixed_lengths()) // 64] * 64, 1)]
        prefill += [Shape((16, 16, 128), [ctx] * (32768 // ctx), ctx) for ctx in (1024, 16384)]
        prefill += [Shape((32, 32, 64), [8192] * 4, 8192), Shape((8, 8, 256), [4096] * 8, 4096)]
    for shape in decode:
        yield Case("decode attn", str(shape), contenders(shape), bytes_moved=kv_bytes(shape))
    for shape in prefill:
        yield Case("prefill attn", str(shape), contenders(shape), flops=flops(shape))


def _mixed_lengths() -> list[int]:
    """64 lengths from 128 to 32768, evenly spread on a logarithmic scale, in a fixed random order."""
    lengths = [round(128 * 256 ** (i / 63)) for i in range(64)]
    order = torch.randperm(64, generator=torch.Generator(device="cpu").manual_seed(3), device="cpu").tolist()
    return [lengths[i] for i in order]


def kv_bytes(shape: Shape) -> int:
    """What a decode step must read."""
    _, num_kv_heads, head_dim = shape.heads
    return 2 * sum(shape.seq_lens) * num_kv_heads * head_dim * DTYPE.itemsize


def flops(shape: Shape) -> int:
    """Two products of 2 operations per query, visible token and element of the head; causal."""
    num_q_heads, _, head_dim = shape.heads
    n = shape.num_queries
    visible = sum(n * (length - n) + n * (n + 1) // 2 for length in shape.seq_lens)
    return 4 * visible * num_q_heads * head_dim


def contenders(shape: Shape) -> dict[str, Callable[[], object]]:
    """Calls that attend the rows once: ours, torch, FlashInfer where it is installed. Ours also with the blocks in order, in
    decodes with blocks of twice the size (the same numbers, read otherwise), and on Hopper the prefill for any GPU."""
    num_q_heads, num_kv_heads, head_dim = shape.heads
    num_rows = len(shape.seq_lens)
    blocks = [-(-length // BLOCK_SIZE) for length in shape.seq_lens]
    cache = torch.randn(sum(blocks), 1, 2, num_kv_heads, BLOCK_SIZE, head_dim, dtype=DTYPE)
    q = torch.randn(num_rows * shape.num_queries, num_q_heads, head_dim, dtype=DTYPE)
    decode = shape.num_queries == 1
    batch = ops.AttentionBatch(
        query_start=torch.arange(num_rows + 1, dtype=torch.int32) * shape.num_queries,
        seq_lens=torch.tensor(shape.seq_lens, dtype=torch.int32),
        block_start=torch.tensor([0, *blocks]).cumsum(0).int(),
        block_ids=torch.randperm(sum(blocks)).int(),
        num_decode_rows=num_rows if decode else 0,
        max_seq_len=max(shape.seq_lens),
        workspace=ops.attention_workspace(num_rows, num_q_heads, head_dim, max(shape.seq_lens), q.device),
    )
    out = torch.empty_like(q)
    scale = head_dim**-0.5
    calls = {FASTSERVE: lambda: ops.attention(q, cache, batch, layer=0, scale=scale, out=out)}
    in_order = replace(batch, block_ids=torch.arange(sum(blocks), dtype=torch.int32))
    calls["in order"] = lambda: ops.attention(q, cache, in_order, layer=0, scale=scale, out=out)
    if decode and all(count % 2 == 0 for count in blocks):
        double = cache.view(sum(blocks) // 2, 1, 2, num_kv_heads, 2 * BLOCK_SIZE, head_dim)
        halved = replace(batch, block_start=batch.block_start // 2, block_ids=torch.randperm(sum(blocks) // 2).int())
        calls["block 32"] = lambda: ops.attention(q, double, halved, layer=0, scale=scale, out=out)
    if q.is_cuda and not decode and kernels.attention_hopper_available():
        plain = replace(batch, backend=ops.AttentionBackend.MMA)
        calls["mma"] = lambda: ops.attention(q, cache, plain, layer=0, scale=scale, out=out)
    if shape.uniform:
        calls["torch"] = _torch(shape)
    if importlib.util.find_spec("flashinfer") is not None:
        with contextlib.suppress(Exception):  # of another version, or it cannot compile here
            calls["flashinfer"] = _flashinfer(shape, q, cache[:, 0], batch)
    return calls


def _torch(shape: Shape) -> Callable[[], object]:
    """What torch does best: dense keys and values, already in the order it wants."""
    num_q_heads, num_kv_heads, head_dim = shape.heads
    num_rows, length = len(shape.seq_lens), shape.seq_lens[0]
    q = torch.randn(num_rows, num_q_heads, shape.num_queries, head_dim, dtype=DTYPE)
    k, v = torch.randn(2, num_rows, num_kv_heads, length, head_dim, dtype=DTYPE)
    options: dict[str, object] = {"enable_gqa": num_q_heads != num_kv_heads}
    if shape.num_queries == length:
        options["is_causal"] = True
    elif shape.num_queries > 1:
        # This mask wants a key head per query head.
        k, v = (x.repeat_interleave(num_q_heads // num_kv_heads, dim=1) for x in (k, v))
        options = {"attn_mask": causal_lower_right(shape.num_queries, length)}
    return lambda: functional.scaled_dot_product_attention(q, k, v, **options)


def _flashinfer(shape: Shape, q: torch.Tensor, pages: torch.Tensor, batch: ops.AttentionBatch) -> Callable[[], object]:
    """FlashInfer over the same pages, planned beforehand."""
    import flashinfer

    last_page = (batch.seq_lens - 1) % BLOCK_SIZE + 1
    table = (batch.block_start, batch.block_ids, last_page)
    workspace = torch.empty(256 << 20, dtype=torch.uint8)
    if shape.num_queries == 1:
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND", use_tensor_cores=True)
        wrapper.plan(*table, *shape.heads, BLOCK_SIZE, q_data_type=DTYPE)
    else:
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "HND")
        wrapper.plan(batch.query_start, *table, *shape.heads, BLOCK_SIZE, causal=True, q_data_type=DTYPE)
    return lambda: wrapper.run(q, pages)
