"""Where layers take their weights from."""

from typing import Protocol

import torch


class WeightSource(Protocol):
    """Named tensors of a checkpoint. Layers allocate; the source fills, so that a weight is in memory once."""

    def has(self, name: str) -> bool:
        """Whether a tensor of this name exists."""

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise CheckpointError unless `read_into` can fill a tensor of this shape; asked before its memory is taken."""

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Fill `out` (contiguous, any device) with the tensor, converted to its dtype.

        Raises:
            CheckpointError: the tensor is missing, has another shape, or cannot be read.
        """


def load_tensor(
    source: WeightSource, name: str, shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return the named tensor in memory of its own."""
    source.expect(name, shape)
    out = torch.empty(shape, dtype=dtype, device=device)
    source.read_into(name, out)
    return out
