"""Groups over torch's process groups, without its default group: gloo between CPUs, NCCL between GPUs."""

from datetime import timedelta

import torch
from torch._C._distributed_c10d import Backend, ProcessGroup, ProcessGroupGloo, Store

from fastserve.distributed.group import tree_sum
from fastserve.errors import InvalidArgumentError

CPU = torch.device("cpu")


class _TorchGroup:
    """What both kinds do; see `Group`. A call that another rank never joins fails after the time limit of the group."""

    def __init__(
        self,
        backend: Backend,
        kind: ProcessGroup.BackendType,
        *,
        store: Store,
        rank: int,
        size: int,
        device: torch.device,
    ) -> None:
        self.rank = rank
        self.size = size
        self._ranks = ProcessGroup(store, rank, size)
        self._ranks._set_default_backend(kind)
        self._ranks._register_backend(device, kind, backend)

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """See `Group`."""
        out = x.new_empty((self.size, *x.shape))
        self._ranks.allgather([list(out.unbind())], [x]).wait()
        return out

    def send(self, x: torch.Tensor, to: int) -> None:
        """See `Group`."""
        self._ranks.send([x], to, 0).wait()

    def recv(self, x: torch.Tensor, source: int) -> None:
        """See `Group`."""
        self._ranks.recv([x], source, 0).wait()

    def close(self) -> None:
        """See `Group`."""
        self._ranks.shutdown()


class GlooGroup(_TorchGroup):
    """Between CPUs, of one machine or several.

    Args:
        store: the same for all ranks and for no other group: `FileStore`, `TCPStore`, or a `PrefixStore` of one.
        timeout_s: for the ranks to meet, and for every call.
    """

    def __init__(self, store: Store, rank: int, size: int, *, timeout_s: float) -> None:
        backend = ProcessGroupGloo(store, rank, size, timedelta(seconds=timeout_s))
        super().__init__(backend, ProcessGroup.BackendType.GLOO, store=store, rank=rank, size=size, device=CPU)

    def all_reduce(self, x: torch.Tensor) -> None:
        """See `Group`; gloo's own sum has an order that depends on size and shape."""
        x.copy_(tree_sum(self.all_gather(x)))


class NcclGroup(_TorchGroup):
    """Between GPUs; sums are in NCCL's own order.

    Args:
        store, timeout_s: see `GlooGroup`.
        device: the GPU of this rank; no other rank may have it.
    Raises:
        InvalidArgumentError: this build of torch has no NCCL.
    """

    def __init__(self, store: Store, rank: int, size: int, *, device: torch.device, timeout_s: float) -> None:
        try:
            from torch._C._distributed_c10d import ProcessGroupNCCL
        except ImportError as error:
            message = "ranks on GPUs need NCCL, which this build of torch lacks: install a CUDA build"
            raise InvalidArgumentError(message) from error
        options = ProcessGroupNCCL.Options()
        options._timeout = timedelta(seconds=timeout_s)
        backend = ProcessGroupNCCL(store, rank, size, options)
        super().__init__(backend, ProcessGroup.BackendType.NCCL, store=store, rank=rank, size=size, device=device)

    def all_reduce(self, x: torch.Tensor) -> None:
        """See `Group`."""
        self._ranks.allreduce([x]).wait()
