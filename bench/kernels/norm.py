"""ops.rms_norm and ops.layer_norm with the residual added, against torch's own (which add it in a call before)."""

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from bench.kernels.case import FASTSERVE, Case
from fastserve import ops

HIDDEN = 768
EPS = 1e-5


def cases(*, quick: bool) -> Iterator[Case]:
    dtypes = {"fp32": torch.float32} if quick else {"fp32": torch.float32, "bf16": torch.bfloat16}
    for name, dtype in dtypes.items():
        for num_tokens in [1, 16, 512]:
            shape = f"T={num_tokens} H={HIDDEN} {name}"
            yield Case("rms_norm", shape, _rms_norm(num_tokens, dtype))
            yield Case("layer_norm", shape, _layer_norm(num_tokens, dtype))


def _rms_norm(num_tokens: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    # Zeros added again and again stay finite; the time does not depend on the values.
    x, residual, out = torch.zeros(3, num_tokens, HIDDEN, dtype=dtype)
    weight = torch.randn(HIDDEN).to(dtype)
    return {
        FASTSERVE: lambda: ops.rms_norm(x, weight, eps=EPS, residual=residual, out=out),
        "torch": lambda: functional.rms_norm(residual.add_(x), (HIDDEN,), weight, EPS),
    }


def _layer_norm(num_tokens: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    x, residual, out = torch.zeros(3, num_tokens, HIDDEN, dtype=dtype)
    weight, bias = torch.randn(2, HIDDEN).to(dtype)
    return {
        FASTSERVE: lambda: ops.layer_norm(x, weight, bias, eps=EPS, residual=residual, out=out),
        "torch": lambda: functional.layer_norm(residual.add_(x), (HIDDEN,), weight, bias, EPS),
    }
