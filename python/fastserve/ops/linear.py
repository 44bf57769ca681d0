"""Matrix products with weights packed once at load time."""

from dataclasses import dataclass

import torch

from fastserve._C import kernels

_PANEL_WIDTH: int = kernels.linear_panel_width
_BF16_INPUT_UNIT: int = kernels.linear_bf16_input_unit


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight in the layout that the kernel reads: panels of 32 output features, the last one padded with zeros.

    Attributes:
        data: `[ceil(out_features / 32), in_features, 32]`, contiguous; in bf16 in_features is rounded up to a multiple of 32,
            and two neighbouring inputs lie beside each other.
        out_features: N of the weight `[N, K]`.
        in_features: K of the weight `[N, K]`.
        dtype: the model dtype: float32, bfloat16 or float16.
    """

    data: torch.Tensor
    out_features: int
    in_features: int
    dtype: torch.dtype


def pack_weight(weight: torch.Tensor) -> PackedWeight:
    """Return a packed copy of `weight`; the original is not needed afterwards.

    Args:
        weight: `[out_features, in_features]`, float32, bfloat16 or float16, dense in the last dimension.
    Raises:
        InvalidArgumentError: `weight` has another rank, dtype, device or layout.
    """
    out_features, in_features = weight.shape
    num_panels = -(-out_features // _PANEL_WIDTH)
    unit = _BF16_INPUT_UNIT if weight.dtype == torch.bfloat16 else 1
    data = torch.empty((num_panels, -(-in_features // unit) * unit, _PANEL_WIDTH), dtype=weight.dtype)
    kernels.pack_linear_weight(data, weight)
    return PackedWeight(data, out_features, in_features, weight.dtype)


def linear(
    x: torch.Tensor,
    weight: PackedWeight,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    num_segments: int = 1,
) -> torch.Tensor:
    """Return `x @ weight.T + bias`, accumulated in fp32 and rounded once.

    A row of the result has the same bits whatever other rows are in the batch and however many threads run.

    Args:
        x: `[num_tokens, in_features]` of the weight's dtype; rows may be strided.
        weight: the result of `pack_weight`.
        bias: `[out_features]` of the weight's dtype.
        out: where to put the result; made when None.
        out_dtype: dtype of a result made here: the weight's dtype (default) or float32 (logits).
        num_segments: 1, 2, 4 or 8: the inputs are summed in so many equal segments (of whole 32 inputs) and the segments as
            a binary tree. The sum of two halves of the inputs, each in half as many segments, has the bits of the whole.
    Returns:
        `[num_tokens, out_features]`.
    Raises:
        InvalidArgumentError: shapes, dtypes or layouts do not fit.
    """
    if out is None:
        out = torch.empty((x.size(0), weight.out_features), dtype=out_dtype or weight.dtype)
    kernels.linear(out, x, weight.data, bias, num_segments)
    return out
