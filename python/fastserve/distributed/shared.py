"""A group of processes of one machine, which exchange tensors of the CPU through shared memory."""

import torch

from fastserve._C.collective import SharedExchange


class SharedGroup:
    """See `Group`. Sums are binary trees, on all ranks; nothing spins, so ranks may outnumber cores.

    Raises:
        DeviceError: in a call that another rank does not join within the time limit.
        InternalError: in a call that differs from that of another rank.
    """

    def __init__(self, fd: int, rank: int, *, timeout_s: float) -> None:
        """Join the group.

        Args:
            fd: of the `ExchangeMemory` that one process made for this group; it stays the caller's.
            timeout_s: for every call.
        """
        self._exchange = SharedExchange(fd, rank, timeout_s=timeout_s)
        self.rank = self._exchange.rank
        self.size = self._exchange.num_ranks

    def all_reduce(self, x: torch.Tensor) -> None:
        """See `Group`."""
        self._exchange.all_reduce(x)

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """See `Group`."""
        out = x.new_empty((self.size, *x.shape))
        self._exchange.all_gather(x, out)
        return out

    def send(self, x: torch.Tensor, to: int) -> None:
        """See `Group`."""
        self._exchange.send(x, to)

    def recv(self, x: torch.Tensor, source: int) -> None:
        """See `Group`."""
        self._exchange.recv(x, source)

    def close(self) -> None:
        """See `Group`. The memory goes with the last process that has it."""
