"""ops.linear against torch's F.linear, MKL with a packed weight, and the time to read the weight from memory."""

import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch.nn import functional

from bench.kernels.case import FASTSERVE, Case
from fastserve import ops

# [N, K] of a model with hidden size 768: qkv, gate_up, down, the output head.
SHAPES = [(1280, 768), (4096, 768), (768, 2048), (32000, 768)]
NUM_TOKENS = [1, 4, 16, 128, 512]
# In a forward pass the weights of the other layers come between two uses of one: copies of a weight take turns until they
# are this much, several times a last-level cache.
COLD_BYTES = 200_000_000
_Operand = TypeVar("_Operand")
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def cases(*, quick: bool) -> Iterator[Case]:
    shapes = SHAPES[1:3] if quick else SHAPES
    for out_features, in_features in shapes:
        yield from _fp32_cases(out_features, in_features)
    for name, dtype in HALVES.items():
        for num_tokens in NUM_TOKENS:
            yield _half_case(name, dtype, num_tokens)


def _fp32_cases(out_features: int, in_features: int) -> Iterator[Case]:
    weight_bytes = out_features * in_features * 4
    copies = max(2, COLD_BYTES // weight_bytes)
    weights = [torch.randn(out_features, in_features) for _ in range(copies)]
    packed = [ops.pack_weight(weight) for weight in weights]
    for num_tokens in NUM_TOKENS:
        x = torch.randn(num_tokens, in_features)
        out = torch.empty(num_tokens, out_features)
        reordered = [torch.ops.mkl._mkl_reorder_linear_weight(weight, num_tokens) for weight in weights]
        pairs = list(zip(reordered, weights, strict=True))
        contenders = {
            FASTSERVE: _rotate(lambda w, x=x, out=out: ops.linear(x, w, out=out), packed),
            "torch": _rotate(lambda w, x=x: functional.linear(x, w), weights),
            "mkl_packed": _rotate(
                lambda p, x=x, t=num_tokens: torch.ops.mkl._mkl_linear(x, p[0], p[1], None, t), pairs
            ),
        }
        shape = f"T={num_tokens} N={out_features} K={in_features} fp32"
        flops = 2 * num_tokens * out_features * in_features
        yield Case("linear", shape, contenders, _bytes_moved(num_tokens, weight_bytes), flops)


def _half_case(name: str, dtype: torch.dtype, num_tokens: int) -> Case:
    out_features, in_features = 4096, 768
    weight_bytes = out_features * in_features * 2
    weights = [torch.randn(out_features, in_features).to(dtype) for _ in range(COLD_BYTES // weight_bytes)]
    packed = [ops.pack_weight(weight) for weight in weights]
    x = torch.randn(num_tokens, in_features).to(dtype)
    out = torch.empty(num_tokens, out_features, dtype=dtype)
    contenders = {
        FASTSERVE: _rotate(lambda w: ops.linear(x, w, out=out), packed),
        "torch": _rotate(lambda w: functional.linear(x, w), weights),
    }
    shape = f"T={num_tokens} N={out_features} K={in_features} {name}"
    flops = 2 * num_tokens * out_features * in_features
    return Case("linear", shape, contenders, _bytes_moved(num_tokens, weight_bytes), flops)


def _bytes_moved(num_tokens: int, weight_bytes: int) -> int:
    """The weight, where reading it is what takes the time."""
    return weight_bytes if num_tokens <= 16 else 0


def _rotate(call: Callable[[_Operand], object], operands: list[_Operand]) -> Callable[[], object]:
    """A call that takes the next operand each time."""
    turns = itertools.cycle(operands)
    return lambda: call(next(turns))
