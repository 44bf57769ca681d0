"""Linear layers, several projections of one input fused into one; a rank may have some of the outputs or of the inputs."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fastserve.distributed.group import Group
from fastserve.layers.weights import WeightSource, read_rows
from fastserve.ops.linear import (
    PANEL_WIDTH,
    PackedWeight,
    empty_packed_weight,
    linear,
    pack_outputs,
    pack_weight,
)

# Segments in which a CPU sums the inputs of a projection whose inputs several ranks may share: each rank then has whole
# segments, and the sum over the ranks has the bits of one rank's.
SHARED_INPUT_SEGMENTS = 8
# What is read of a weight before it is packed.
PIECE_BYTES = 8 << 20


class Projection(Protocol):
    """Base of every linear layer."""

    def __call__(self, x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Project x [num_tokens, in_features] to [num_tokens, out_features]."""


class Linear:
    """y = x @ weight.T + bias, with weight [out_features, in_features].

    On a CPU the weight is packed for the kernel and the plain one is dropped; elsewhere torch's GEMM takes it as it is.
    """

    def __init__(
        self, weight: torch.Tensor | PackedWeight, bias: torch.Tensor | None = None, *, num_segments: int = 1
    ) -> None:
        self._bias = bias
        self._num_segments = num_segments
        self._packed: PackedWeight | None = None
        self._plain: torch.Tensor | None = None
        if isinstance(weight, PackedWeight):
            self._packed = weight
            self.out_features, self.in_features = weight.out_features, weight.in_features
            return
        self.out_features, self.in_features = weight.shape
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

    def __init__(self, weight: torch.Tensor | PackedWeight, bias: torch.Tensor | None, group: Group) -> None:
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
        rows: the outputs that this rank has; beyond those of the matrix they are zeros. None = all.
    """

    name: str
    out_features: int
    rows: range | None = None

    @property
    def outputs(self) -> range:
        """The outputs that this rank has."""
        return range(self.out_features) if self.rows is None else self.rows


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
) -> tuple[torch.Tensor | PackedWeight, torch.Tensor | None]:
    for part in parts:
        source.expect(f"{part.name}.weight", (part.out_features, in_features))
        if bias:
            source.expect(f"{part.name}.bias", (part.out_features,))
    num_columns = in_features if columns is None else len(columns)
    weight = _load_weight(source, parts, num_columns, columns=columns, dtype=dtype, device=device)
    if not bias:
        return weight, None
    biases = torch.empty(sum(len(part.outputs) for part in parts), dtype=dtype, device=device)
    _read_outputs(source, parts, "bias", 0, biases, columns=None)
    return weight, biases


def _load_weight(
    source: WeightSource,
    parts: Sequence[Part],
    num_columns: int,
    *,
    columns: range | None,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor | PackedWeight:
    """The weights of the parts below each other; for a CPU packed piece by piece, so that they are never there twice."""
    num_outputs = sum(len(part.outputs) for part in parts)
    if device.type != "cpu":
        weight = torch.empty((num_outputs, num_columns), dtype=dtype, device=device)
        _read_outputs(source, parts, "weight", 0, weight, columns=columns)
        return weight
    packed = empty_packed_weight(num_outputs, num_columns, dtype)
    panels = max(1, PIECE_BYTES // (PANEL_WIDTH * num_columns * dtype.itemsize))
    piece = _returned_memory(min(panels * PANEL_WIDTH, num_outputs), num_columns, dtype)
    for first in range(0, num_outputs, panels * PANEL_WIDTH):
        outputs = piece[: num_outputs - first]
        _read_outputs(source, parts, "weight", first, outputs, columns=columns)
        pack_outputs(packed, first, outputs)
    return packed


def _returned_memory(num_rows: int, num_columns: int, dtype: torch.dtype) -> torch.Tensor:
    """A matrix whose memory goes back to the machine with it, and leaves no hole between weights that stay."""
    num_values = num_rows * num_columns
    pages = mmap.mmap(-1, num_values * dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype, count=num_values).view(num_rows, num_columns)


def _read_outputs(
    source: WeightSource, parts: Sequence[Part], what: str, first: int, out: torch.Tensor, *, columns: range | None
) -> None:
    """Fill `out` with the weights or biases of outputs `first` and following, counted over all parts."""
    begin = -first  # of the part, as a row of out
    for part in parts:
        mine = part.outputs
        rows = range(min(max(begin, 0), len(out)), min(max(begin + len(mine), 0), len(out)))
        if rows:
            wanted = range(mine.start + rows.start - begin, mine.start + rows.stop - begin)
            target = out[rows.start : rows.stop]
            read_rows(source, f"{part.name}.{what}", target, wanted, part.out_features, columns=columns)
        begin += len(mine)
