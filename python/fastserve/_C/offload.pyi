"""
Asynchronous block copies between device and host memory.
"""
from __future__ import annotations
import enum
import numpy
import torch
import typing
__all__: list[str] = ['Completion', 'Direction', 'HostArena', 'OffloadEngine', 'available_host_bytes', 'copy_fragments']
class Direction(enum.Enum):
    """
    Which way blocks move.
    """
    DEVICE_TO_HOST = 0
    HOST_TO_DEVICE = 1
class Completion:
    """
    How a transfer ended; a failed one leaves unspecified bytes.
    """
    def __repr__(self) -> str:
        ...
    @property
    def bytes(self) -> int:
        """
        Bytes asked for, whether ok or not.
        """
    @property
    def direction(self) -> Direction:
        ...
    @property
    def error(self) -> str:
        """
        Empty when ok.
        """
    @property
    def ok(self) -> bool:
        ...
    @property
    def seconds(self) -> float:
        """
        From the start of the copy to its end, with its verification.
        """
    @property
    def ticket(self) -> int:
        """
        What submit returned.
        """
class HostArena:
    """
    Host memory for offloaded blocks: 2 MiB aligned, zero-filled. Has the buffer protocol, uint8 [num_blocks, block_bytes]: numpy.asarray(arena) is a writable view that keeps it alive.
    """
    def __init__(self, num_blocks: typing.SupportsInt | typing.SupportsIndex, block_bytes: typing.SupportsInt | typing.SupportsIndex, *, num_threads: typing.SupportsInt | typing.SupportsIndex = 0, prefault: bool = True, pin: bool = False, device: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        """
        Map the memory; with prefault, num_threads touch it first (0: one per core, at most 16); with pin it is touched and page-locked, near GPU `device`. InvalidArgumentError for sizes below 1 and for pin without CUDA in the build, DeviceError when the memory cannot be had or locked.
        """
    @property
    def block_bytes(self) -> int:
        ...
    @property
    def num_blocks(self) -> int:
        ...
    @property
    def num_bytes(self) -> int:
        ...
    @property
    def pinned(self) -> bool:
        """
        Page-locked: a GPU can copy to and from it by itself.
        """
class OffloadEngine:
    """
    Copies KV blocks between the device arena and the host arena beside the compute; every method may be called from any thread. Transfers of one direction complete in order; the directions run at once, and a transfer that touches blocks of another one in flight is refused.
    """
    def __init__(self, device_arena: typing.Any, host_arena: HostArena, *, queue_capacity: typing.SupportsInt | typing.SupportsIndex = 64, verify_checksums: bool = False, compute_stream: typing.SupportsInt | typing.SupportsIndex = 0, allow_pageable: bool = False, batch_copies: bool = True) -> None:
        """
        device_arena [num_blocks, ...] is a contiguous, writable tensor whose blocks have host_arena.block_bytes bytes; both arenas are kept alive. queue_capacity: transfers per direction queued or running. On a GPU: a copy begins after what compute_stream (a cudaStream_t as an integer) was given before its submission; host_arena must be pinned unless allow_pageable; batch_copies hands many pieces to the driver at once.
        """
    def close(self) -> None:
        """
        Cancel what is queued, let running transfers end, join the threads; completions can still be polled.
        """
    def link_bytes_per_s(self, direction: Direction) -> float:
        """
        Smoothed rate of recent copies; 10e9 before the first one.
        """
    def poll(self) -> list[Completion]:
        """
        The completions not reported yet, in order of completion; never waits. Each is reported once.
        """
    def submit(self, direction: Direction, source_blocks: numpy.ndarray | torch.Tensor, target_blocks: numpy.ndarray | torch.Tensor) -> int:
        """
        Queue a transfer of block source_blocks[i] onto target_blocks[i] (int32 [num_blocks] each, copied) and return its ticket; waits only while the direction's queue is full. InvalidArgumentError: lengths differ, an id out of range, a target twice, a block in use by a transfer in flight, engine closed.
        """
    def wait(self, ticket: typing.SupportsInt | typing.SupportsIndex, timeout_s: typing.SupportsFloat | typing.SupportsIndex = ...) -> Completion | None:
        """
        Wait for one transfer and report it, so that poll does not; None after timeout_s seconds. InvalidArgumentError: unknown ticket, already reported, or another thread waits for it.
        """
    def wait_any(self, timeout_s: typing.SupportsFloat | typing.SupportsIndex = ...) -> bool:
        """
        Wait until poll would return something; False after timeout_s seconds, or at once with nothing in flight.
        """
    @property
    def block_bytes(self) -> int:
        ...
    @property
    def device_fault(self) -> str:
        """
        Why the device is lost, known before the transfer that met it is reported; empty while it works. Once set, nothing that lies on the device can be trusted.
        """
def available_host_bytes() -> int:
    """
    Bytes this process could still fill: what the kernel counts as available, or what is left of its cgroup's limit; 2**63 - 1 when the system does not say.
    """
def copy_fragments(source: numpy.ndarray | torch.Tensor, target: numpy.ndarray | torch.Tensor, offsets: numpy.ndarray | torch.Tensor, sizes: numpy.ndarray | torch.Tensor, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    Copy ranges of bytes (int64 offsets and sizes) of one uint8 tensor to the same places in another. Between the CPU (page-locked) and a GPU it is one kernel on `stream`, not a job for a copy engine. InvalidArgumentError: sizes differ, a range outside; DeviceError: the launch failed.
    """
