"""Linear layers, several projections of one input fused into one."""

from collections.abc import Sequence

import torch

from fastserve.layers.weights import WeightSource
from fastserve.ops.linear import PackedWeight, linear, pack_weight

# Segments in which a CPU sums the inputs of a projection whose inputs several ranks may share: each rank then has whole
# segments, and the sum over the ranks has the bits of one rank's.
SHARED_INPUT_SEGMENTS = 8


class Linear:
    """y = x @ weight.T + bias, with weight [out_features, in_features].

    On a CPU the weight is packed for the kernel and the plain one is dropped; elsewhere torch's GEMM takes it as it is.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, num_segments: int = 1) -> None:
        self.out_features, self.in_features = weight.shape
        self._bias = bias
        self._num_segments = num_segments
        self._packed: PackedWeight | None = None
        self._plain: torch.Tensor | None = None
        if weight.device.type == "cpu":
            self._packed = pack_weight(weight)
        else:
            self._plain = weight

    def __call__(
        self, x: torch.Tensor, *, out: torch.Tensor | None = None, out_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Project x [num_tokens, in_features] to [num_tokens, out_features].

        Args:
            out: where to write; a new tensor by default.
            out_dtype: of a new tensor, that of x (default) or float32.
        """
        if self._packed is not None:
            return linear(x, self._packed, self._bias, out=out, out_dtype=out_dtype, num_segments=self._num_segments)
        assert self._plain is not None, "a layer has its weight in one of two forms"
        if out is None:
            out = x.new_empty((len(x), self.out_features), dtype=out_dtype or x.dtype)
        return self._multiply(x, self._plain.t(), out)

    def _multiply(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """By torch, straight into `out`, which may be wider than x: the sums are then not rounded on the way."""
        if not len(x):
            return out
        if out.dtype != x.dtype:
            torch.mm(x, weight, out_dtype=out.dtype, out=out)
            return out if self._bias is None else out.add_(self._bias)
        return torch.mm(x, weight, out=out) if self._bias is None else torch.addmm(self._bias, x, weight, out=out)


def load_linear(
    source: WeightSource,
    parts: Sequence[tuple[str, int]],
    in_features: int,
    *,
    bias: bool,
    dtype: torch.dtype,
    device: torch.device,
    num_segments: int = 1,
) -> Linear:
    """Load a linear layer whose outputs are those of the parts, one after the other.

    Args:
        parts: name in the checkpoint (without .weight) and output features of each.
        bias: whether every part has a bias.
        num_segments: see `ops.linear`.
    """
    for name, size in parts:
        source.expect(f"{name}.weight", (size, in_features))
        if bias:
            source.expect(f"{name}.bias", (size,))
    out_features = sum(size for _, size in parts)
    weight = torch.empty((out_features, in_features), dtype=dtype, device=device)
    bias_vector = torch.empty(out_features, dtype=dtype, device=device) if bias else None
    begin = 0
    for name, size in parts:
        source.read_into(f"{name}.weight", weight[begin : begin + size])
        if bias_vector is not None:
            source.read_into(f"{name}.bias", bias_vector[begin : begin + size])
        begin += size
    return Linear(weight, bias_vector, num_segments=num_segments)
