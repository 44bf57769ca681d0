"""ops.activation, gated, against the two calls it takes in torch."""

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from bench.kernels.case import FASTSERVE, Case
from fastserve import ops

SIZE = 2048
TORCH: dict[ops.ActivationKind, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def cases(*, quick: bool) -> Iterator[Case]:
    dtypes = {"fp32": torch.float32} if quick else {"fp32": torch.float32, "bf16": torch.bfloat16}
    for name, dtype in dtypes.items():
        for num_tokens in [1, 16, 512]:
            for kind in ["silu"] if quick else TORCH:
                yield Case("activation", f"{kind} gated T={num_tokens} I={SIZE} {name}", _case(kind, num_tokens, dtype))


def gpu_cases(*, quick: bool) -> Iterator[Case]:
    size = 14336
    for num_tokens in [1, 4096] if quick else [1, 64, 512, 4096]:
        for kind in ["silu"] if quick else TORCH:
            contenders = _case(kind, num_tokens, torch.bfloat16, size)
            shape = f"{kind} gated T={num_tokens} I={size} bf16"
            yield Case("activation", shape, contenders, bytes_moved=3 * num_tokens * size * 2)


def _case(
    kind: ops.ActivationKind, num_tokens: int, dtype: torch.dtype, size: int = SIZE
) -> dict[str, Callable[[], object]]:
    x = torch.randn(num_tokens, 2 * size).to(dtype)
    out = torch.empty(num_tokens, size, dtype=dtype)
    act = TORCH[kind]
    return {
        FASTSERVE: lambda: ops.activation(x, kind=kind, gated=True, out=out),
        "torch": lambda: act(x[:, :size]) * x[:, size:],
    }
