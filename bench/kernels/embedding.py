"""ops.embedding against torch's F.embedding."""

from collections.abc import Iterator

import torch
from torch.nn import functional

from bench.kernels.case import FASTSERVE, Case
from fastserve import ops

VOCAB, HIDDEN = 32000, 768


def cases(*, quick: bool) -> Iterator[Case]:
    weight = torch.randn(VOCAB, HIDDEN)
    for num_tokens in [1, 16] if quick else [1, 16, 512]:
        ids = torch.randint(0, VOCAB, (num_tokens,), dtype=torch.int32)
        out = torch.empty(num_tokens, HIDDEN)
        contenders = {
            FASTSERVE: lambda ids=ids, out=out: ops.embedding(ids, weight, out=out),
            "torch": lambda ids=ids: functional.embedding(ids, weight),
        }
        yield Case("embedding", f"T={num_tokens} V={VOCAB} H={HIDDEN} fp32", contenders)
