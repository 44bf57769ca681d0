"""The worker's side of parking: starts the transfers of a plan and reports which ended."""

import threading

import numpy as np
import torch

from fastserve._C.offload import Direction, HostArena, OffloadEngine
from fastserve._C.sched import StepPlan
from fastserve.errors import DeviceError
from fastserve.log import get_logger
from fastserve.worker.step_output import TransferResults

logger = get_logger(__name__)

MEASURED_BYTES = 64 << 20  # per transfer: enough that its fixed cost does not show
MEASURED_ROUNDS = 3


class Transfers:
    """Maps the scheduler's transfer ids to tickets of the offload engine. One thread starts them, one reads results."""

    def __init__(
        self,
        kv_cache: torch.Tensor,
        num_host_blocks: int,
        *,
        canary: bool,
        compute_stream: int = 0,
        allow_pageable: bool = False,
    ) -> None:
        """Allocate the host pool, page-locked when the cache lies on a GPU.

        Args:
            kv_cache: the device pool, [num_blocks, ...], contiguous.
            num_host_blocks: blocks of the host pool; 0 = no transfers will come.
            canary: hash blocks when they are parked and compare when they come back.
            compute_stream: of a GPU: copies begin after what it was given before they were started.
            allow_pageable: on a GPU, go on with memory that cannot be page-locked.
        Raises:
            DeviceError: the host pool cannot be had, or not be page-locked.
        """
        self._mutex = threading.Lock()  # over a ticket and its entry
        self._id_of_ticket: dict[int, int] = {}
        self._engine: OffloadEngine | None = None
        self.arena: HostArena | None = None
        self._num_device_blocks = kv_cache.size(0)
        if num_host_blocks:
            block_bytes = kv_cache[0].numel() * kv_cache.element_size()
            self.arena = _host_arena(num_host_blocks, block_bytes, kv_cache.device, allow_pageable)
            self._engine = OffloadEngine(
                kv_cache,
                self.arena,
                verify_checksums=canary,
                compute_stream=compute_stream,
                allow_pageable=allow_pageable,
            )

    @property
    def engine(self) -> OffloadEngine | None:
        """The offload engine, None without a host pool."""
        return self._engine

    @property
    def device_fault(self) -> str:
        """Why the device is lost, as reported by a copy; empty while it works."""
        return "" if self._engine is None else self._engine.device_fault

    def measure_link(self) -> None:
        """Copy blocks to the host and back to measure the rates of the link; call it before the pools are used.

        Raises:
            DeviceError: a copy failed.
        """
        engine, arena = self._engine, self.arena
        if engine is None or arena is None:
            return
        most = min(self._num_device_blocks, arena.num_blocks)
        blocks = np.arange(min(most, -(-MEASURED_BYTES // arena.block_bytes)), dtype=np.int32)
        for direction in (Direction.DEVICE_TO_HOST, Direction.HOST_TO_DEVICE) * MEASURED_ROUNDS:
            completion = engine.wait(engine.submit(direction, blocks, blocks))
            assert completion is not None, "this wait has no limit"
            if not completion.ok:
                raise DeviceError(f"KV cannot be copied between the GPU and the host: {completion.error}")

    def link_bytes_per_s(self) -> tuple[float, float]:
        """Rates of recent offloads and uploads; zeros without a host pool."""
        if self._engine is None:
            return 0.0, 0.0
        return (
            self._engine.link_bytes_per_s(Direction.DEVICE_TO_HOST),
            self._engine.link_bytes_per_s(Direction.HOST_TO_DEVICE),
        )

    def start(self, plan: StepPlan) -> None:
        """Start every transfer of the plan; returns without waiting for a copy."""
        bounds = plan.transfer_start
        for j in range(plan.num_transfers):
            assert self._engine is not None, "only a host pool brings transfers"
            blocks = slice(bounds[j], bounds[j + 1])
            with self._mutex:
                ticket = self._engine.submit(
                    Direction.DEVICE_TO_HOST if plan.transfer_to_host[j] else Direction.HOST_TO_DEVICE,
                    plan.transfer_sources[blocks],
                    plan.transfer_targets[blocks],
                )
                self._id_of_ticket[ticket] = int(plan.transfer_ids[j])

    def wait(self, timeout_s: float) -> None:
        """Wait until a transfer in flight ends, at most `timeout_s`."""
        if self._engine is not None and self._id_of_ticket:
            self._engine.wait_any(timeout_s)

    def take_results(self) -> TransferResults:
        """The transfers that ended since the last call."""
        if self._engine is None or not self._id_of_ticket:
            return TransferResults()
        with self._mutex:
            done = self._engine.poll()
            ids = [self._id_of_ticket.pop(c.ticket) for c in done]
        if not done:
            return TransferResults()
        offload_bytes_per_s, upload_bytes_per_s = self.link_bytes_per_s()
        return TransferResults(
            ids=np.array(ids, np.int64),
            ok=np.array([c.ok for c in done], np.uint8),
            errors=tuple(c.error for c in done if not c.ok),
            offload_bytes=sum(c.bytes for c in done if c.ok and c.direction == Direction.DEVICE_TO_HOST),
            upload_bytes=sum(c.bytes for c in done if c.ok and c.direction == Direction.HOST_TO_DEVICE),
            offload_bytes_per_s=offload_bytes_per_s,
            upload_bytes_per_s=upload_bytes_per_s,
        )

    def close(self) -> None:
        """Stop the copy threads."""
        if self._engine is not None:
            self._engine.close()


def _host_arena(num_blocks: int, block_bytes: int, device: torch.device, allow_pageable: bool) -> HostArena:
    if device.type == "cpu":
        return HostArena(num_blocks, block_bytes, prefault=False)
    try:
        return HostArena(num_blocks, block_bytes, pin=True, device=device.index or 0)
    except DeviceError as error:
        if not allow_pageable:
            raise DeviceError(
                f"the host KV pool cannot be page-locked: {error}. Lower --host-kv-gib, or pass --allow-pageable-host-kv"
                f" to go on with much slower copies"
            ) from error
        logger.warning("the host KV pool is not page-locked, KV copies will be slow: %s", error)
        return HostArena(num_blocks, block_bytes)
