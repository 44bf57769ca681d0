"""What ranks that share a model exchange."""

from typing import Protocol

import torch


class Group(Protocol):
    """One rank's end of a group. All ranks make the same calls in the same order; each waits for those it needs.

    Tensors are contiguous and of the same shape and type on all ranks of a call.
    """

    @property
    def rank(self) -> int:
        """Of this end, from 0."""

    @property
    def size(self) -> int:
        """Number of ranks."""

    def all_reduce(self, x: torch.Tensor) -> None:
        """Replace the float32 x by the sum over the ranks; on a CPU in the order of `tree_sum`, on all ranks."""

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """Return x of every rank, [size, *x.shape]."""

    def send(self, x: torch.Tensor, to: int) -> None:
        """Hand x to another rank, which receives it."""

    def recv(self, x: torch.Tensor, source: int) -> None:
        """Fill x with what another rank sends."""

    def close(self) -> None:
        """Let go of the other ranks."""


def tree_sum(parts: torch.Tensor) -> torch.Tensor:
    """Add up parts [size, ...] as a binary tree: ((0 + 1) + (2 + 3)) + ...; `parts` is overwritten.

    The order in which `ops.linear` adds segments, so that the sum over ranks continues that within a rank.
    """
    while len(parts) > 1:
        pairs = len(parts) // 2
        sums = parts[0 : 2 * pairs : 2].add_(parts[1 : 2 * pairs : 2])
        parts = sums if len(parts) % 2 == 0 else torch.cat([sums, parts[-1:]])
    return parts[0]
