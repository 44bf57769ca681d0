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


def gpu_cases(*, quick: bool) -> Iterator[Case]:
    for num_tokens, hidden in (
        [(1, 4096), (2048, 8192)] if quick else [(1, 4096), (32, 4096), (2048, 4096), (2048, 8192)]
    ):
        shape = f"T={num_tokens} H={hidden} bf16"
        moved = 4 * num_tokens * hidden * 2
        yield Case("rms_norm", shape, _rms_norm(num_tokens, torch.bfloat16, hidden), bytes_moved=moved)
        yield Case("layer_norm", shape, _layer_norm(num_tokens, torch.bfloat16, hidden), bytes_moved=moved)


def _rms_norm(num_tokens: int, dtype: torch.dtype, hidden: int = HIDDEN) -> dict[str, Callable[[], object]]:
    x, residual, out = _rows(num_tokens, hidden, dtype)
    weight = torch.randn(hidden).to(dtype)
    return {
        FASTSERVE: lambda: ops.rms_norm(x, weight, eps=EPS, residual=residual, out=out),
        "torch": lambda: functional.rms_norm(residual.add_(x), (hidden,), weight, EPS),
    }


def _layer_norm(num_tokens: int, dtype: torch.dtype, hidden: int = HIDDEN) -> dict[str, Callable[[], object]]:
    x, residual, out = _rows(num_tokens, hidden, dtype)
    weight, bias = torch.randn(2, hidden).to(dtype)
    return {
        FASTSERVE: lambda: ops.layer_norm(x, weight, bias, eps=EPS, residual=residual, out=out),
        "torch": lambda: functional.layer_norm(residual.add_(x), (hidden,), weight, bias, EPS),
    }


def _rows(num_tokens: int, hidden: int, dtype: torch.dtype) -> torch.Tensor:
    """Small random x, residual and out: x is added to the residual again and again, and has to stay finite."""
    return (torch.randn(3, num_tokens, hidden) * 1e-6).to(dtype)
