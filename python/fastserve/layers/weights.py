"""Where layers take their weights from."""

from typing import Protocol

import torch


class WeightSource(Protocol):
    """Named tensors of a checkpoint. Layers allocate; the source fills, so that a weight is in memory once."""

    def has(self, name: str) -> bool:
        """Whether a tensor of this name exists."""

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise CheckpointError unless the tensor can be read and has this shape; asked before memory for it is taken."""

    def read_into(
        self, name: str, out: torch.Tensor, *, rows: range | None = None, columns: range | None = None
    ) -> None:
        """Fill `out` (contiguous, any device) with the tensor or a slice of it, converted to the dtype of `out`.

        Args:
            rows: range of step 1 in the first dimension; None = all.
            columns: range of step 1 in the second dimension of a matrix; None = all.
        Raises:
            CheckpointError: the tensor is missing, has another shape or no such slice, or cannot be read.
        """

    def leave(self, name: str) -> None:
        """Note that the tensor, which `expect` has checked, is read by other ranks and not by this one."""


def load_tensor(
    source: WeightSource, name: str, shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return the named tensor, of this shape, in memory of its own."""
    source.expect(name, shape)
    out = torch.empty(shape, dtype=dtype, device=device)
    source.read_into(name, out)
    return out


def read_rows(
    source: WeightSource, name: str, out: torch.Tensor, rows: range, num_rows: int, *, columns: range | None = None
) -> None:
    """Fill `out` with rows of a tensor that has `num_rows`; those beyond it are zeros."""
    present = range(min(rows.start, num_rows), min(rows.stop, num_rows))
    source.read_into(name, out[: len(present)], rows=present, columns=columns)
    out[len(present) :].zero_()
