"""A group of one rank, which has nothing to exchange."""

import torch

from fastserve.errors import InvalidArgumentError


class SingleGroup:
    """See `Group`."""

    rank = 0
    size = 1

    def all_reduce(self, x: torch.Tensor) -> None:
        """Leave x as it is."""

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """x itself, [1, *x.shape]."""
        return x.unsqueeze(0)

    def send(self, x: torch.Tensor, to: int) -> None:
        """Refuse: there is no other rank."""
        raise InvalidArgumentError(f"a group of one rank has no rank {to} to send to")

    def recv(self, x: torch.Tensor, source: int) -> None:
        """Refuse: there is no other rank."""
        raise InvalidArgumentError(f"a group of one rank has no rank {source} to receive from")

    def close(self) -> None:
        """Nothing is held."""


SINGLE = SingleGroup()
