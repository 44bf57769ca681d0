"""The worker's side of parking: starts the transfers of a plan and reports which ended."""

import numpy as np
import torch

from fastserve._C.offload import Direction, HostArena, OffloadEngine
from fastserve._C.sched import StepPlan
from fastserve.worker.step_output import TransferResults


class Transfers:
    """Maps the scheduler's transfer ids to tickets of the offload engine. Used by one thread."""

    def __init__(self, kv_cache: torch.Tensor, num_host_blocks: int, *, canary: bool) -> None:
        """Allocate the host pool.

        Args:
            kv_cache: the device pool, [num_blocks, ...], contiguous.
            num_host_blocks: blocks of the host pool; 0 = no transfers will come.
            canary: hash blocks when they are parked and compare when they come back.
        """
        self._id_of_ticket: dict[int, int] = {}
        self._engine: OffloadEngine | None = None
        self.arena: HostArena | None = None
        if num_host_blocks:
            block_bytes = kv_cache[0].numel() * kv_cache.element_size()
            self.arena = HostArena(num_host_blocks, block_bytes, prefault=False)
            self._engine = OffloadEngine(kv_cache, self.arena, verify_checksums=canary)

    @property
    def engine(self) -> OffloadEngine | None:
        """The offload engine, None without a host pool."""
        return self._engine

    def start(self, plan: StepPlan) -> None:
        """Start every transfer of the plan; returns without waiting for a copy."""
        bounds = plan.transfer_start
        for j in range(plan.num_transfers):
            blocks = slice(bounds[j], bounds[j + 1])
            ticket = self._engine.submit(
                Direction.DEVICE_TO_HOST if plan.transfer_to_host[j] else Direction.HOST_TO_DEVICE,
                plan.transfer_sources[blocks],
                plan.transfer_targets[blocks],
            )
            self._id_of_ticket[ticket] = int(plan.transfer_ids[j])

    def wait(self, timeout_s: float) -> None:
        """Wait until a transfer in flight ends, at most `timeout_s`."""
        if self._id_of_ticket:
            self._engine.wait_any(timeout_s)

    def take_results(self) -> TransferResults:
        """The transfers that ended since the last call."""
        if not self._id_of_ticket:
            return TransferResults()
        done = self._engine.poll()
        if not done:
            return TransferResults()
        return TransferResults(
            ids=np.array([self._id_of_ticket.pop(c.ticket) for c in done], np.int64),
            ok=np.array([c.ok for c in done], np.uint8),
            errors=tuple(c.error for c in done if not c.ok),
            offload_bytes=sum(c.bytes for c in done if c.ok and c.direction == Direction.DEVICE_TO_HOST),
            upload_bytes=sum(c.bytes for c in done if c.ok and c.direction == Direction.HOST_TO_DEVICE),
            offload_bytes_per_s=self._engine.link_bytes_per_s(Direction.DEVICE_TO_HOST),
            upload_bytes_per_s=self._engine.link_bytes_per_s(Direction.HOST_TO_DEVICE),
        )

    def close(self) -> None:
        """Stop the copy threads."""
        if self._engine is not None:
            self._engine.close()
