"""RMSNorm and LayerNorm of hidden states, fused with the addition of the residual."""

import torch

from fastserve._C import kernels
from fastserve.ops.stream import stream_of


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `h / sqrt(mean(h ** 2) + eps) * weight` per row, in fp32 and rounded once.

    Args:
        x: `[num_tokens, hidden]`, rows may be strided; h is x without a residual.
        weight: `[hidden]`.
        eps: added to the mean square.
        residual: `[num_tokens, hidden]`; becomes `residual + x`, rounded to its dtype, and is what h is.
        out: where to put the result (may be `x`); made when None.
    Returns:
        `[num_tokens, hidden]`.
    Raises:
        InvalidArgumentError: shapes, dtypes or layouts do not fit, or eps is negative.
    """
    if out is None:
        out = x.new_empty(x.shape)
    kernels.rms_norm(out, x, weight, eps, residual, stream=stream_of(x))
    return out


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    eps: float,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `(h - mean(h)) / sqrt(var(h) + eps) * weight + bias` per row, in fp32 and rounded once.

    Args:
        x: `[num_tokens, hidden]`, rows may be strided; h is x without a residual.
        weight: `[hidden]`.
        bias: `[hidden]`.
        eps: added to the variance (the mean of squares, not corrected for the sample).
        residual: `[num_tokens, hidden]`; becomes `residual + x`, rounded to its dtype, and is what h is.
        out: where to put the result (may be `x`); made when None.
    Returns:
        `[num_tokens, hidden]`.
    Raises:
        InvalidArgumentError: shapes, dtypes or layouts do not fit, or eps is negative.
    """
    if out is None:
        out = x.new_empty(x.shape)
    kernels.layer_norm(out, x, weight, bias, eps, residual, stream=stream_of(x))
    return out
