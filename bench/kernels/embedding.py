"""ops.embedding against torch's F.embedding."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.nn import functional

from bench.kernels.case import FASTSERVE, Case
from fastserve import ops

VOCAB, HIDDEN = 32000, 768


def cases(*, quick: bool) -> Iterator[Case]:
    for case in _cases(torch.randn(VOCAB, HIDDEN), [1, 16] if quick else [1, 16, 512], "fp32"):
        yield replace(case, bytes_moved=0)  # from a cache or not


def gpu_cases(*, quick: bool) -> Iterator[Case]:
    yield from _cases(torch.randn(128_256, 4096).to(torch.bfloat16), [1, 4096] if quick else [1, 64, 4096], "bf16")


def _cases(weight: torch.Tensor, sizes: list[int], dtype: str) -> Iterator[Case]:
    vocab_size, hidden = weight.shape
    for num_tokens in sizes:
        ids = torch.randint(0, vocab_size, (num_tokens,), dtype=torch.int32)
        out = weight.new_empty(num_tokens, hidden)
        contenders = {
            FASTSERVE: lambda ids=ids, out=out: ops.embedding(ids, weight, out=out),
            "torch": lambda ids=ids: functional.embedding(ids, weight),
        }
        moved = 2 * out.numel() * out.itemsize
        yield Case("embedding", f"T={num_tokens} V={vocab_size} H={hidden} {dtype}", contenders, bytes_moved=moved)
