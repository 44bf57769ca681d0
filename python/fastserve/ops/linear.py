"""Matrix products with weights packed once at load time."""

from dataclasses import dataclass

import torch

from fastserve._C import kernels

PANEL_WIDTH: int = kernels.linear_panel_width
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


def empty_packed_weight(out_features: int, in_features: int, dtype: torch.dtype) -> PackedWeight:
    """Return a weight whose outputs `pack_outputs` has yet to fill."""
    num_panels = -(-out_features // PANEL_WIDTH)
    unit = _BF16_INPUT_UNIT if dtype == torch.bfloat16 else 1
    data = torch.empty((num_panels, -(-in_features // unit) * unit, PANEL_WIDTH), dtype=dtype)
    return PackedWeight(data, out_features, in_features, dtype)


def pack_outputs(packed: PackedWeight, first: int, weight: torch.Tensor) -> None:
    """Fill outputs `first` and following of a packed weight.

    Args:
        first: a multiple of PANEL_WIDTH.
        weight: `[num_outputs, in_features]` of the packed dtype, dense in the last dimension; num_outputs is a multiple
            of PANEL_WIDTH as well, unless these are the last outputs.
    Raises:
        InvalidArgumentError: `weight` has another shape, dtype, device or layout.
    """
    first_panel, num_panels = first // PANEL_WIDTH, -(-len(weight) // PANEL_WIDTH)
    kernels.pack_linear_weight(packed.data[first_panel : first_panel + num_panels], weight)


def pack_weight(weight: torch.Tensor) -> PackedWeight:
    """Return a packed copy of `weight`; the original is not needed afterwards.

    Args:
        weight: `[out_features, in_features]`, float32, bfloat16 or float16, dense in the last dimension.
    Raises:
        InvalidArgumentError: `weight` has another rank, dtype, device or layout.
    """
    out_features, in_features = weight.shape
    packed = empty_packed_weight(out_features, in_features, weight.dtype)
    pack_outputs(packed, 0, weight)
    return packed


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
