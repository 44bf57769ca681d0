"""Linear layers, several projections of one input fused into one; a rank may have some of the outputs or of the inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fastserve.distributed.group import Group
from fastserve.layers.weights import WeightSource
from fastserve.ops.linear import PackedWeight, linear, pack_weight

# Segments in which a CPU sums the inputs of a projection whose inputs several ranks may share: each rank then has whole
# segments, and the sum over the ranks has the bits of one rank's.
SHARED_INPUT_SEGMENTS = 8


class Projection(Protocol):
    """What every linear layer does."""

    def __call__(self, x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Project x [num_tokens, in_features] to [num_tokens, out_features]."""


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


class RowLinear:
    """A linear layer whose inputs the ranks of a group share; its outputs are whole on every rank.

    Each rank multiplies its inputs, the float32 products are added up over the ranks, and the sum gets its bias and is
    rounded once. Where a rank's inputs are whole segments, a CPU computes the bits of one rank's `Linear`.

    Args:
        weight: [out_features, inputs of this rank].
        bias: [out_features], the same on all ranks.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, group: Group) -> None:
        whole = SHARED_INPUT_SEGMENTS % group.size == 0
        self._product = Linear(weight, num_segments=SHARED_INPUT_SEGMENTS // group.size if whole else 1)
        self._bias = bias
        self._group = group

    def __call__(self, x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Project x [num_tokens, inputs of this rank] to [num_tokens, out_features]."""
        sums = self._product(x, out_dtype=torch.float32)
        self._group.all_reduce(sums)
        if self._bias is not None:
            sums.add_(self._bias)
        return sums.to(x.dtype) if out is None else out.copy_(sums)


@dataclass(frozen=True, slots=True)
class Part:
    """The outputs of a projection that one matrix of the checkpoint gives.

    Attributes:
        name: in the checkpoint, without .weight.
        out_features: of the matrix.
        rows: the outputs that this rank has; None = all.
    """

    name: str
    out_features: int
    rows: range | None = None

    @property
    def num_rows(self) -> int:
        """How many outputs this rank has."""
        return self.out_features if self.rows is None else len(self.rows)


def load_linear(
    source: WeightSource,
    parts: Sequence[Part],
    in_features: int,
    *,
    bias: bool,
    dtype: torch.dtype,
    device: torch.device,
    num_segments: int = 1,
) -> Linear:
    """Load a linear layer whose outputs are those of the parts, one after the other.

    Args:
        bias: whether every part has a bias.
        num_segments: see `ops.linear`.
    """
    weight, bias_vector = _load(source, parts, in_features, columns=None, bias=bias, dtype=dtype, device=device)
    return Linear(weight, bias_vector, num_segments=num_segments)


def load_row_linear(
    source: WeightSource,
    part: Part,
    in_features: int,
    *,
    columns: range,
    group: Group,
    bias: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> RowLinear:
    """Load this rank's part of a linear layer.

    Args:
        in_features: of all ranks together.
        columns: the inputs of this rank.
    """
    weight, bias_vector = _load(source, [part], in_features, columns=columns, bias=bias, dtype=dtype, device=device)
    return RowLinear(weight, bias_vector, group)


def _load(
    source: WeightSource,
    parts: Sequence[Part],
    in_features: int,
    *,
    columns: range | None,
    bias: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    for part in parts:
        source.expect(f"{part.name}.weight", (part.out_features, in_features))
        if bias:
            source.expect(f"{part.name}.bias", (part.out_features,))
    num_rows, num_columns = sum(part.num_rows for part in parts), in_features if columns is None else len(columns)
    weight = torch.empty((num_rows, num_columns), dtype=dtype, device=device)
    bias_vector = torch.empty(num_rows, dtype=dtype, device=device) if bias else None
    begin = 0
    for part in parts:
        end = begin + part.num_rows
        source.read_into(f"{part.name}.weight", weight[begin:end], rows=part.rows, columns=columns)
        if bias_vector is not None:
            source.read_into(f"{part.name}.bias", bias_vector[begin:end], rows=part.rows)
        begin = end
    return weight, bias_vector
