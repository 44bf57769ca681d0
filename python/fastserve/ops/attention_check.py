"""Whether the attention kernels can be trusted on the device they are about to serve on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fastserve.ops.attention import attention, attention_workspace
from fastserve.ops.attention_batch import AttentionBackend, AttentionBatch, on_device
from fastserve.ops.attention_difference import first_difference
from fastserve.ops.attention_torch import attention_torch

_LAYER = 1
_NUM_LAYERS = 2
_ROUNDING = {torch.float32: 2.0**-18, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@dataclass(frozen=True, slots=True)
class _Step:
    """Rows as (KV tokens, query tokens); the first `num_decode_rows` have one query token each."""

    name: str
    rows: Sequence[tuple[int, int]]
    num_decode_rows: int


_STEPS = (
    _Step("decode, lengths around a page and a tile", [(n, 1) for n in (1, 15, 16, 17, 63, 64, 65, 129)], 8),
    _Step("decode in several splits", [(300, 1), (1, 1), (2100, 1)], 3),
    _Step("prefill", [(70, 70), (1, 1)], 0),
    _Step("mixed, with a chunk after its prefix", [(40, 1), (200, 37), (65, 65)], 1),
    _Step("prefill of more tiles than processors", [(1100, 600), (33, 33), (900, 3)], 0),
)


def check_attention(
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    head_dim: int,
    num_q_heads: int,
    num_kv_heads: int,
    block_size: int,
    backend: AttentionBackend = AttentionBackend.NATIVE,
) -> list[str]:
    """Compare a backend with torch in fp32 on a few small steps, in a cache whose unwritten slots are NaN.

    Each step runs twice over different garbage in the output, and must give the same bits. Takes about a second at most.

    Returns:
        What went wrong, one line per step: the kind of fault, the first value at fault (row, query, head, element, tile, bits) and
        the ranges of all others; empty when everything agrees.
    """
    generator = torch.Generator(device=device).manual_seed(1)
    mismatches = []
    for step in _STEPS:
        cache, cpu_batch = _make_step(step, (num_kv_heads, block_size, head_dim), dtype, generator)
        max_seq_len = max(length for length, _ in step.rows)
        batch = replace(
            on_device(cpu_batch, device),
            max_seq_len=max_seq_len,
            workspace=attention_workspace(len(step.rows), num_q_heads, head_dim, max_seq_len, device),
            backend=backend,
        )
        num_tokens = sum(num_queries for _, num_queries in step.rows)
        q = torch.randn(num_tokens, num_q_heads, head_dim, generator=generator, device=device).to(dtype)
        results = [
            attention(q, cache, batch, layer=_LAYER, scale=head_dim**-0.5, out=torch.full_like(q, garbage))
            for garbage in (float("nan"), 7.0)
        ]
        expected = attention_torch(
            q, cache, batch, layer=_LAYER, scale=head_dim**-0.5, out=torch.empty_like(q), compute_dtype=torch.float32
        )
        mismatches += [f"{step.name}: {fault}" for fault in _faults(results, expected, step, num_kv_heads, block_size)]
    return mismatches


def _faults(
    results: Sequence[torch.Tensor], expected: torch.Tensor, step: _Step, num_kv_heads: int, block_size: int
) -> list[str]:
    """At most one fault: the first kind that is found, and where."""
    first, second = results
    # Values are below 5 and mostly around 1; weights, and the result, are rounded to the dtype once each. In fp32 the
    # errors of scores and exponentials count, some 1e-6 of a weight.
    allowed = 6 * _ROUNDING[expected.dtype]
    error = (first.float() - expected.float()).abs()
    not_finite = ~first.isfinite()
    if not_finite.any():
        tokens = int(not_finite.any(dim=(1, 2)).sum())
        kind, compared, wrong = f"{tokens} of {len(first)} tokens are not finite", expected, not_finite
    elif (error > allowed).any():
        kind, compared, wrong = f"off by {error.max().item():.3g}, allowed is {allowed:.3g}", expected, error > allowed
    elif (first != second).any():
        kind, compared, wrong = "the same step gave other bits the second time", second, first != second
    else:
        return []
    where = first_difference(first, compared, wrong, step.rows, num_kv_heads=num_kv_heads, block_size=block_size)
    return [f"{kind}: {where}"]


def _make_step(
    step: _Step, page_shape: tuple[int, int, int], dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, AttentionBatch]:
    """A cache of pages [num_kv_heads, block_size, head_dim] in random order; what no token has written is NaN.

    The cache lies on the device of the generator, where its numbers are drawn as well: a wide model has millions.
    """
    num_kv_heads, block_size, head_dim = page_shape
    device = generator.device
    num_blocks = [-(-length // block_size) for length, _ in step.rows]
    total = sum(num_blocks) + 1
    order = torch.randperm(total, generator=torch.Generator("cpu").manual_seed(1), device="cpu")[: sum(num_blocks)]
    shape = (2, num_kv_heads, block_size, head_dim)
    cache = torch.full((total, _NUM_LAYERS, *shape), float("nan"), dtype=dtype, device=device)
    tokens = torch.randn(len(order), *shape, generator=generator, device=device)
    first = 0
    for (length, _), count in zip(step.rows, num_blocks, strict=True):
        if length % block_size:
            tokens[first + count - 1, :, :, length % block_size :] = float("nan")
        first += count
    cache[order.to(device), _LAYER] = tokens.to(dtype)
    batch = AttentionBatch(
        query_start=torch.tensor([0, *(n for _, n in step.rows)]).cumsum(0),
        seq_lens=torch.tensor([length for length, _ in step.rows]),
        block_start=torch.tensor([0, *num_blocks]).cumsum(0),
        block_ids=order,
        num_decode_rows=step.num_decode_rows,
    )
    return cache, batch
