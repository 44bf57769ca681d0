"""Activation functions of the MLP, plain and gated."""

from typing import Literal

import torch

from fastserve._C import kernels
from fastserve.ops.stream import stream_of

ActivationKind = Literal["silu", "gelu", "gelu_tanh", "relu"]


def activation(x: torch.Tensor, *, kind: ActivationKind, gated: bool, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return `act(x)`, or with `gated` `act(x[:, :I]) * x[:, I:]`, in fp32 and rounded once.

    Args:
        x: `[num_tokens, I]`, gated: `[num_tokens, 2 * I]`; rows may be strided.
        kind: silu, gelu (with erf), gelu_tanh or relu.
        gated: whether the second half of a row multiplies the activated first half.
        out: where to put the result; made when None.
    Returns:
        `[num_tokens, I]`.
    Raises:
        InvalidArgumentError: shapes, dtypes or layouts do not fit, or the kind is unknown.
    """
    if out is None:
        out = x.new_empty((x.size(0), x.size(1) // 2 if gated else x.size(1)))
    kernels.activation(out, x, kind, gated, stream=stream_of(x))
    return out
